"""`python -m everview.workflows.cli`: the program where there is no script of that name, as on a
cluster that got the code with the job."""

from everview.workflows.cli.main import main

if __name__ == "__main__":
    main()
