"""Run the stand-in as VASP is run: in the directory of its input, without arguments that name files."""

import sys

from vasp_stand_in.command import main

if __name__ == "__main__":
    sys.exit(main())
