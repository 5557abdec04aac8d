"""What only the notebooks use: pictures, exercise checks, and the script that executes notebooks."""
