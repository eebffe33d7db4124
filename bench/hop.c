/* hop COMMAND...: the least that a launcher can do. */
#include <unistd.h>

int main(int argc, char **argv)
{
	return argc > 1 ? execv(argv[1], argv + 1) : 2;
}
