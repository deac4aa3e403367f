"""
``python -m tl_orchestration.cli`` is ``tl``.
"""

from tl_orchestration.cli import main

if __name__ == "__main__":
    main()
