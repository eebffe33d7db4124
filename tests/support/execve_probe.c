/* Prints the state it was started in: /proc/self/status, then what that lacks. */
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(void)
{
	static char text[8192];
	FILE *file = fopen("/proc/self/status", "r");
	if (!file)
		return 1;
	size_t length = fread(text, 1, sizeof text - 64, file);
	length += (size_t)sprintf(text + length, "Secure:\t%lu\nSecureBits:\t%d\n",
				  getauxval(AT_SECURE), prctl(PR_GET_SECUREBITS));
	return write(1, text, length) != (ssize_t)length;
}
