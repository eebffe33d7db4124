/* What the headers of glibc make of three calls in its libcap.a, for a launcher linked with musl:
   the same calls with the size of their target, which they must not pass. */
#define _GNU_SOURCE
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

int __asprintf_chk(char **text, int flag, const char *format, ...);
int __snprintf_chk(char *text, size_t most, int flag, size_t size, const char *format, ...);
int __sprintf_chk(char *text, int flag, size_t size, const char *format, ...);

int __asprintf_chk(char **text, int flag, const char *format, ...)
{
	(void)flag;
	va_list arguments;
	va_start(arguments, format);
	int length = vasprintf(text, format, arguments);
	va_end(arguments);
	return length;
}

int __snprintf_chk(char *text, size_t most, int flag, size_t size, const char *format, ...)
{
	(void)flag;
	if (most > size)
		abort();
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(text, most, format, arguments);
	va_end(arguments);
	return length;
}

int __sprintf_chk(char *text, int flag, size_t size, const char *format, ...)
{
	(void)flag;
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(text, size < INT_MAX ? size : INT_MAX, format, arguments);
	va_end(arguments);
	if (length >= 0 && (size_t)length >= size)
		abort();
	return length;
}
