/* The system calls that a search for marked files, or a list of processes, cannot do without:
   looks find DIRECTORY, or looks show. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_listxattrat
#define SYS_listxattrat (SYS_openat2 + 28)
#endif

static void find(int parent, const char *name)
{
	DIR *directory = fdopendir(openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
	if (!directory)
		exit(1);
	int fd = dirfd(directory);
	for (struct dirent *entry; (entry = readdir(directory));) {
		const char *below = entry->d_name;
		if (entry->d_type == DT_DIR && strcmp(below, ".") && strcmp(below, ".."))
			find(fd, below);
		if (entry->d_type == DT_REG &&
		    syscall(SYS_listxattrat, fd, below, AT_SYMLINK_NOFOLLOW, NULL, 0) < 0)
			exit(1);
	}
	closedir(directory);
}

static void show(void)
{
	static char status[1 << 16];
	DIR *proc = opendir("/proc");
	if (!proc)
		exit(1);
	for (struct dirent *entry; (entry = readdir(proc));) {
		if (!isdigit(entry->d_name[0]))
			continue;
		snprintf(status, sizeof status, "%s/status", entry->d_name);
		int fd = openat(dirfd(proc), status, O_RDONLY);
		if (fd < 0)
			continue; /* it has ended */
		while (read(fd, status, sizeof status) > 0)
			;
		close(fd);
	}
	closedir(proc);
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "find") == 0)
		find(AT_FDCWD, argv[2]);
	else if (argc == 2 && strcmp(argv[1], "show") == 0)
		show();
	else
		return 2;
	return 0;
}
