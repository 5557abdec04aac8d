from pconv.cli import main

main()
