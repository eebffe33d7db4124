"""Small readers of /proc that several rooms share; see proc(5)."""


def status(directory: str) -> dict[str, str]:
    """The status of a process or thread, whose name need not be UTF-8.

    directory: of the process or thread, such as /proc/self.
    Raises OSError where there is no such process or thread.
    """
    with open(f'{directory}/status', errors='surrogateescape', newline='\n') as file:
        return {name: value.strip() for name, _, value in (line.partition(':') for line in file)}


def comm(directory: str) -> str:
    """The name of a process or thread.

    directory: of the process or thread, such as /proc/self.
    Raises OSError where there is no such process or thread.
    """
    with open(f'{directory}/comm', errors='surrogateescape', newline='\n') as file:
        return file.read()[:-1]
