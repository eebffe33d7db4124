/* libFuzzer on the reading of file capabilities: the header that the product compiles and libcap,
   with the fuzzer's bytes in the place of what getxattr(2) answers. decode() says what is right. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/xattr.h>

#include "capstate.h"

#define REQUIRE(condition) ((condition) ? (void)0 : abort())
enum { BITS = 64, ERRORS = 6 };

struct decoded {
	uint64_t permitted, inheritable;
	bool effective;
	uint32_t root_id;
};

static const uint8_t *attribute;
static size_t attribute_size;
static int error; /* what getxattr(2) fails with, -1 to say it succeeded, 0 for no reason given */
static int file;

ssize_t getxattr(const char *path, const char *name, void *value, size_t size)
{
	char buffer[CAPS_FD_PATH];
	REQUIRE(strcmp(path, caps_fd_path(buffer, file)) == 0);
	REQUIRE(strcmp(name, "security.capability") == 0);
	if (error < 0 && attribute_size > size)
		error = ERANGE;
	if (error >= 0) {
		errno = error;
		return -1;
	}
	if (attribute_size)
		memcpy(value, attribute, attribute_size);
	return (ssize_t)attribute_size;
}

static uint32_t word(size_t n)
{
	const uint8_t *bytes = attribute + 4 * n;
	return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* The format as linux/capability.h describes it; false if it is malformed. */
static bool decode(struct decoded *decoded)
{
	static const size_t sizes[] = {0, 12, 20, 24};
	uint32_t magic = attribute_size >= 4 ? word(0) : 0, revision = magic >> 24;
	if (revision < 1 || revision > 3 || attribute_size != sizes[revision])
		return false;
	*decoded = (struct decoded){word(1), word(2), magic & 1, revision == 3 ? word(5) : 0};
	if (revision > 1) {
		decoded->permitted |= (uint64_t)word(3) << 32;
		decoded->inheritable |= (uint64_t)word(4) << 32;
	}
	return true;
}

static uint64_t mask(cap_t caps, cap_flag_t set)
{
	uint64_t bits = 0;
	for (cap_value_t cap = 0; cap < BITS; cap++) {
		cap_flag_value_t value = CAP_CLEAR;
		REQUIRE(cap_get_flag(caps, cap, set, &value) == 0);
		bits |= (uint64_t)(value == CAP_SET) << cap;
	}
	return bits;
}

static void compare(cap_t caps, const struct decoded *right)
{
	uint64_t effective = right->effective ? right->permitted | right->inheritable : 0;
	REQUIRE(mask(caps, CAP_PERMITTED) == right->permitted);
	REQUIRE(mask(caps, CAP_INHERITABLE) == right->inheritable);
	REQUIRE(mask(caps, CAP_EFFECTIVE) == effective);
	REQUIRE(cap_get_nsowner(caps) == right->root_id);
	CAPS_OWNED char *text = cap_to_text(caps, NULL);
	CAPS_OWNED cap_t again = text ? cap_from_text(text) : NULL;
	REQUIRE(again && cap_compare(again, caps) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	char name[] = "/tmp/fuzz-XXXXXX";
	int writable = mkstemp(name);
	/* an O_PATH descriptor with three digits, as awkward as it gets */
	file = fcntl(open(name, O_PATH), F_DUPFD, 700);
	return writable < 0 || file < 0 || unlink(name) < 0 || close(writable) < 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int errors[ERRORS] = {0, ENODATA, EOPNOTSUPP, EACCES, EIO, EINVAL};
	if (size < 1)
		return -1;
	attribute = data + 1;
	attribute_size = size - 1;
	error = *data < ERRORS ? errors[*data] : -1;
	errno = EBADF; /* what was before must not matter */
	CAPS_OWNED cap_t caps = caps_get_fd(file);
	int reason = errno;
	struct decoded right;
	if (error < 0 && decode(&right)) {
		REQUIRE(caps);
		compare(caps, &right);
	} else {
		int expected = error <= 0 ? EINVAL : error == EOPNOTSUPP ? ENODATA : error;
		REQUIRE(!caps && reason == expected);
	}
	return 0;
}
