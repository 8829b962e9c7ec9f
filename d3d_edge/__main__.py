"""`python -m d3d_edge`."""

from d3d_edge.cli import main

if __name__ == "__main__":
    main()
