"""What the help of each command teaches by."""

EXIT = """\
exit status:
  0  done, and what was asked for is there
  1  refused, something went wrong, or nothing was found
  2  wrong usage
"""
PPY_EXAMPLES = """\
examples:
  sudo caps ppy install
      scripts marked with capabilities run through /usr/local/bin/ppy, under this Python
  sudo caps ppy install --interpreter /srv/app/venv/bin/python --name ppy-app
      the same for a virtual environment: its scripts begin with #!/usr/local/bin/ppy-app
  sudo caps ppy install --allow cap_net_raw,cap_net_bind_service
      no script can be given anything else
  sudo caps ppy status
      after an upgrade of Python: says whether to install again

  sudo setcap cap_dac_read_search=i backup.py
  ppy backup.py
      the script runs as its owner, and may activate cap_dac_read_search
"""
EXAMPLES = {
    '': """\
examples:
  caps show --tree                      who runs with what
  caps find /usr                        which files give what to whoever runs them
  caps explain /usr/bin/ping            what running a file would do here, and why
  sudo caps set cap_net_raw=ep FILE     what setcap does; get and remove it likewise
  sudo caps venv mark DIR cap_net_raw   for the python of one virtual environment only
  sudo caps ppy install                 for scripts: then mark a script and run it through ppy
  . <(caps completion bash)             complete all this
""",
    'show': """\
examples:
  caps show                  this command's own state, as your shell hands it on
  caps show $$ 1             of the shell and of init
  caps show --all            of every process
  caps show --tree           the same, each below its parent
  caps show --tree $$        the shell and what it has started
  caps show --all --json | jq '.processes[] | select(.effective != []) | .pid'
""",
    'get': """\
examples:
  caps get /usr/bin/ping               prints what getcap prints
  caps get --json script.py            tells no capabilities from empty ones
  caps get FILE || echo 'has none'     1 unless every file has some, be they empty
""",
    'set': """\
TEXT is what setcap takes; see cap_text_formats(7).

examples:
  sudo caps set cap_net_raw=ep pinger               whoever runs it has it
  sudo caps set cap_dac_read_search=i backup.py     a script, to be run through ppy
  sudo caps set = FILE                              empty sets, which are not the same as none
""",
    'remove': """\
examples:
  sudo caps remove pinger
""",
    'find': """\
Symbolic links below DIR are not followed. Each name of a file with several is found.

examples:
  caps find /usr/bin /opt
  sudo caps find --all-file-systems /         everything, also what is mounted
  sudo caps find --json / > before            to compare after an upgrade
""",
    'explain': """\
The exit status is 1 where the file would not run.

examples:
  caps explain ./backup.py                    what running it would do here
  caps explain venv/bin/python --as daemon    for another account
  caps explain /usr/bin/ping --pid 1234       for the state of a process
  caps explain --ppy /usr/local/bin/ppy backup.py    as 'ppy backup.py' would run it
""",
    'venv': """\
examples:
  sudo caps venv mark /srv/app/venv cap_net_bind_service
  /srv/app/venv/bin/python -m http.server 80
  sudo caps venv unmark /srv/app/venv
""",
    'venv mark': """\
DIR/bin/python is a link to a python that everyone shares. It becomes a copy, and only the copy
is marked. Every script of the environment then runs with CAPS, and whoever can run it, or write
to what it imports, has them: --group says who. Mark it again after an upgrade of Python.

CAPS is capability text, or a bare list, which means =ep.

examples:
  sudo caps venv mark /srv/app/venv cap_net_raw                 the same as cap_net_raw=ep
  sudo caps venv mark /srv/app/venv cap_net_raw=p               its code makes it effective
  sudo caps venv mark /srv/app/venv cap_net_raw --group ops     nobody else can run it
""",
    'venv unmark': """\
examples:
  sudo caps venv unmark /srv/app/venv
""",
    'completion': """\
examples:
  . <(caps completion bash)        in ~/.bashrc
  . <(caps completion zsh)         in ~/.zshrc, after compinit
  caps completion fish | source    in ~/.config/fish/config.fish
""",
} | {f'ppy{command}': PPY_EXAMPLES for command in ('', ' install', ' status', ' remove')}
