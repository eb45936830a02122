from d2lmini.cli import main

raise SystemExit(main())
