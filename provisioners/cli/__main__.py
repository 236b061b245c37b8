"""`python -m farkernel.provisioners.cli` is the `farkernel` command."""

from farkernel.provisioners.cli.app import main

if __name__ == "__main__":
    main()
