#include "ctl/switchover/controldata.h"

#include <stdlib.h>
#include <string.h>

#include "walcrypt/pgfile.h"

/* The rest of the line that begins with label, blanks skipped, copied to value; "" when there is none. */
static void
line_value(const char *text, const char *label, char *value, size_t room)
{
	size_t len = strlen(label);

	value[0] = '\0';
	for (; *text != '\0'; text += strcspn(text, "\n"), text += *text == '\n')
		if (strncmp(text, label, len) == 0) {
			size_t n;

			text += len;
			text += strspn(text, " \t");
			n = strcspn(text, "\r\n");
			if (n < room) {
				memcpy(value, text, n);
				value[n] = '\0';
			}
			return;
		}
}

static int
missing(struct err *err, const char *label)
{
	err_set(err, ERR_DAMAGED, "the output has no \"%s\" that makes sense", label);
	return err_hint(err, "The command must print what pg_controldata prints, under LC_ALL=C.");
}

static int
number(const char *text, const char *label, uint64_t *out, struct err *err)
{
	char value[64], *end;

	line_value(text, label, value, sizeof(value));
	*out = strtoull(value, &end, 10);
	return value[0] >= '0' && value[0] <= '9' && *end == '\0' ? 0 : missing(err, label);
}

static int
position(const char *text, const char *label, uint64_t *out, struct err *err)
{
	char value[64];

	line_value(text, label, value, sizeof(value));
	return lsn_parse(value, out) == 0 ? 0 : missing(err, label);
}

int
controldata_parse(const char *text, struct datadir_control *c, struct err *err)
{
	static const char state_label[] = "Database cluster state:";
	char state[64];
	uint64_t version, tli, segment, checksums;
	int s = DATADIR_STARTUP;

	memset(c, 0, sizeof(*c));
	line_value(text, state_label, state, sizeof(state));
	while (s <= DATADIR_IN_PRODUCTION && strcmp(state, datadir_state_name((enum datadir_state)s)) != 0)
		s++;
	if (s > DATADIR_IN_PRODUCTION)
		return missing(err, state_label);
	if (number(text, "pg_control version number:", &version, err) != 0 ||
	    number(text, "Database system identifier:", &c->system_identifier, err) != 0 ||
	    position(text, "Latest checkpoint location:", &c->checkpoint, err) != 0 ||
	    position(text, "Latest checkpoint's REDO location:", &c->redo, err) != 0 ||
	    number(text, "Latest checkpoint's TimeLineID:", &tli, err) != 0 ||
	    number(text, "Bytes per WAL segment:", &segment, err) != 0 ||
	    number(text, "Data page checksum version:", &checksums, err) != 0)
		return -1;
	c->state = (enum datadir_state)s;
	c->version = (uint32_t)version;
	c->tli = (uint32_t)tli;
	c->wal_segment_size = (uint32_t)segment;
	c->checksum_version = (uint32_t)checksums;
	return 0;
}
