#include "replication/tar.h"

#include <stdio.h>
#include <string.h>

/* Offsets and widths in a ustar header; the checksum counts itself as spaces. */
enum {
	OFF_NAME = 0,
	OFF_MODE = 100,
	OFF_UID = 108,
	OFF_GID = 116,
	OFF_SIZE = 124,
	OFF_MTIME = 136,
	OFF_CHECKSUM = 148,
	OFF_TYPE = 156,
	OFF_LINK = 157,
	OFF_MAGIC = 257,
	OFF_VERSION = 263,
	OFF_USER = 265,
	OFF_GROUP = 297,
	OFF_DEVMAJOR = 329,
	OFF_DEVMINOR = 337,
	OFF_PREFIX = 345,
	LEN_NAME = 100,
	LEN_ID = 8,
	LEN_BIG = 12,
	LEN_USER = 32,
	LEN_PREFIX = 155
};

static int
damaged(struct err *err, const char *what)
{
	err_set(err, ERR_DAMAGED, "invalid tar header in the base backup: %s", what);
	return err_sqlstate(err, "08P01");
}

/* Octal ended by a space or NUL, or base 256 behind a byte 0x80. */
static int
get_number(const uint8_t *p, size_t len, uint64_t *value)
{
	size_t i = 0;

	*value = 0;
	if (p[0] == 0x80) {
		for (i = 1; i < len; i++) {
			if (*value >> 56 != 0)
				return -1;
			*value = *value << 8 | p[i];
		}
		return 0;
	}
	while (i < len && p[i] == ' ')
		i++;
	for (; i < len && p[i] >= '0' && p[i] <= '7'; i++)
		*value = *value << 3 | (uint64_t)(p[i] - '0');
	return i == len || p[i] == ' ' || p[i] == '\0' ? 0 : -1;
}

static void
put_number(uint8_t *p, size_t len, uint64_t value)
{
	if (value < UINT64_C(1) << (len - 1) * 3) {
		p[--len] = ' ';
		for (; len > 0; value >>= 3)
			p[--len] = (uint8_t)('0' + (value & 7));
		return;
	}
	for (p[0] = 0x80; len > 1; value >>= 8)
		p[--len] = (uint8_t)value;
}

static uint32_t
checksum(const uint8_t *block)
{
	uint32_t sum = 8 * ' ';

	for (size_t i = 0; i < TAR_BLOCK; i++)
		if (i < OFF_CHECKSUM || i >= OFF_CHECKSUM + LEN_ID)
			sum += block[i];
	return sum;
}

static int
get_small(const uint8_t *p, uint32_t *value)
{
	uint64_t big;

	if (get_number(p, LEN_ID, &big) != 0 || big > UINT32_MAX)
		return -1;
	*value = (uint32_t)big;
	return 0;
}

static void
get_text(char *to, const uint8_t *p, size_t len)
{
	memcpy(to, p, len);
	to[len] = '\0';
}

int
tar_header_parse(const uint8_t block[static TAR_BLOCK], struct tar_member *m, struct err *err)
{
	char prefix[LEN_PREFIX + 1];
	uint32_t sum;
	uint8_t type;

	memset(m, 0, sizeof(*m));
	if (get_small(block + OFF_CHECKSUM, &sum) != 0 || sum != checksum(block))
		return damaged(err, "its checksum is wrong");
	if (memcmp(block + OFF_MAGIC, "ustar", 6) != 0)
		return damaged(err, "it is not of the ustar format");
	get_text(prefix, block + OFF_PREFIX, LEN_PREFIX);
	get_text(m->name, block + OFF_NAME, LEN_NAME);
	if (prefix[0] != '\0') {
		char name[LEN_NAME + 1];

		memcpy(name, m->name, sizeof(name));
		snprintf(m->name, sizeof(m->name), "%s/%s", prefix, name);
	}
	if (m->name[0] == '\0')
		return damaged(err, "a member has no name");
	get_text(m->link, block + OFF_LINK, LEN_NAME);
	get_text(m->user, block + OFF_USER, LEN_USER);
	get_text(m->group, block + OFF_GROUP, LEN_USER);
	if (get_small(block + OFF_MODE, &m->mode) != 0 || get_small(block + OFF_UID, &m->uid) != 0 ||
	    get_small(block + OFF_GID, &m->gid) != 0 || get_number(block + OFF_SIZE, LEN_BIG, &m->size) != 0 ||
	    get_number(block + OFF_MTIME, LEN_BIG, &m->mtime) != 0)
		return damaged(err, "a number is malformed");
	type = block[OFF_TYPE] == '\0' ? TAR_FILE : block[OFF_TYPE];
	if (type != TAR_FILE && type != TAR_SYMLINK && type != TAR_DIRECTORY) {
		err_set(err, ERR_REFUSED, "tar member \"%.150s\" of the base backup has the unknown type 0x%02x", m->name,
		        (unsigned)type);
		return err_sqlstate(err, "0A000");
	}
	m->type = (enum tar_type)type;
	if (m->type != TAR_FILE && m->size != 0)
		return damaged(err, "a directory or link has contents");
	/* so that a size and its padding can be added to a position without a second thought */
	if (m->size > INT64_MAX)
		return damaged(err, "a size is too large");
	return 0;
}

/* The name into its field, or parted at a slash into prefix and name. */
static int
put_path(uint8_t *block, const char *name)
{
	size_t len = strlen(name);

	if (len < LEN_NAME) {
		memcpy(block + OFF_NAME, name, len);
		return 0;
	}
	for (size_t at = len - 1; at > 0; at--)
		if (name[at] == '/' && at <= LEN_PREFIX && len - at - 1 <= LEN_NAME && len - at - 1 > 0) {
			memcpy(block + OFF_PREFIX, name, at);
			memcpy(block + OFF_NAME, name + at + 1, len - at - 1);
			return 0;
		}
	if (len > LEN_NAME)
		return -1;
	memcpy(block + OFF_NAME, name, len);
	return 0;
}

int
tar_header_format(const struct tar_member *m, uint8_t block[static TAR_BLOCK], struct err *err)
{
	memset(block, 0, TAR_BLOCK);
	if (m->name[0] == '\0' || put_path(block, m->name) != 0)
		return err_set(err, ERR_FAILED, "file name does not fit into a tar header: \"%.150s\"", m->name);
	put_number(block + OFF_MODE, LEN_ID, m->mode);
	put_number(block + OFF_UID, LEN_ID, m->uid);
	put_number(block + OFF_GID, LEN_ID, m->gid);
	put_number(block + OFF_SIZE, LEN_BIG, m->size);
	put_number(block + OFF_MTIME, LEN_BIG, m->mtime);
	block[OFF_TYPE] = (uint8_t)m->type;
	memcpy(block + OFF_LINK, m->link, strnlen(m->link, LEN_NAME));
	memcpy(block + OFF_MAGIC, "ustar", 6);
	memcpy(block + OFF_VERSION, "00", 2);
	memcpy(block + OFF_USER, m->user, strnlen(m->user, LEN_USER));
	memcpy(block + OFF_GROUP, m->group, strnlen(m->group, LEN_USER));
	put_number(block + OFF_DEVMAJOR, LEN_ID, 0);
	put_number(block + OFF_DEVMINOR, LEN_ID, 0);
	put_number(block + OFF_CHECKSUM, LEN_ID, checksum(block));
	return 0;
}
