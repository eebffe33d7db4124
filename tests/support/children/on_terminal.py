"""What a program tries with its starter's terminal; it prints what it could do."""

import fcntl
import os
import signal
import termios

terminal = os.open('/dev/tty', os.O_RDWR)
print('opened')
os.setpgid(0, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
os.tcsetpgrp(terminal, os.getpgrp())
print('took the foreground')
fcntl.ioctl(terminal, termios.TIOCSTI, b'#')
