#include "ctl/libpq_error.h"

#include <string.h>

/* The rest of the line that begins with label; its length, or 0 when there is none. */
static int
line_after(const char *message, const char *label, const char **rest)
{
	const char *at = strstr(message, label);

	/* "HINT:  " stands at a line's beginning: in the middle of one it is somebody's text */
	while (at != NULL && at != message && at[-1] != '\n')
		at = strstr(at + 1, label);
	if (at == NULL)
		return 0;
	*rest = at + strlen(label);
	return (int)strcspn(*rest, "\n");
}

int
libpq_error(struct err *err, enum err_class class, const char *what, const char *message)
{
	const char *rest;
	int len;

	err_set(err, class, "%s: %.*s", what, (int)strcspn(message, "\n"), message);
	if ((len = line_after(message, "DETAIL:  ", &rest)) > 0)
		err_detail(err, "%.*s", len, rest);
	if ((len = line_after(message, "HINT:  ", &rest)) > 0)
		err_hint(err, "%.*s", len, rest);
	return -1;
}
