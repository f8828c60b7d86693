#include "ctl/switchover/syncnames.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *
blanks(const char *p)
{
	return p + strspn(p, " \t\r\n\f");
}

/* One name, quoted or not; returns behind it, NULL when there is none. */
static const char *
name_take(const char *p, char *name, size_t room)
{
	size_t used = 0;
	bool quoted = *p == '"';

	for (p += quoted; *p != '\0'; p++) {
		if (quoted && *p == '"' && *++p != '"')
			break;
		if (!quoted && strchr(" \t\r\n\f,()", *p) != NULL)
			break;
		if (used + 1 < room)
			name[used++] = *p;
	}
	name[used] = '\0';
	return used > 0 ? p : NULL;
}

/* Is a standby in the list of names? A server compares them without regard to case; "*" stands for any. */
static bool
listed(const char *list, const char *standby)
{
	char name[64];

	for (const char *p = list; (p = name_take(p, name, sizeof(name))) != NULL;) {
		if (strcmp(name, "*") == 0 || strcasecmp(name, standby) == 0)
			return true;
		p = blanks(p);
		if (*p != ',')
			break;
		p = blanks(p + 1);
	}
	return false;
}

bool
syncnames_satisfied(const char *setting, const char *const *standbys, size_t n)
{
	const char *p = blanks(setting), *list = strchr(p, '(');
	long wanted = 1;
	long have = 0;

	if (*p == '\0')
		return true;
	if (list != NULL) {
		if (strncasecmp(p, "FIRST", 5) == 0)
			p = blanks(p + 5);
		else if (strncasecmp(p, "ANY", 3) == 0)
			p = blanks(p + 3);
		wanted = strtol(p, NULL, 10);
		p = blanks(list + 1);
	}
	for (size_t i = 0; i < n; i++)
		have += listed(p, standbys[i]);
	return have >= (wanted > 0 ? wanted : 1);
}
