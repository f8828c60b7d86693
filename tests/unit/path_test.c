/* Paths: what does not fit is refused, the order by folder. */
#include "common/path.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/tap.h"

static const struct {
	const char *a, *b;
	int want;
} orders[] = {
    {"base/1/a", "base/1/b", 0},
    {"/a", "/b", 0},
    {"base/1/z", "base/2/a", -1},
    {"base/1/z", "base/16/a", -1},
    /* what is in a folder, and further below */
    {"base/1", "base/1/a", -1},
    {"/a", "/b/a", -1},
    /* the name is no part of it */
    {"base/1/a.new", "base/1/a/new", -1},
};

static int
sign(int n)
{
	return (n > 0) - (n < 0);
}

int
main(void)
{
	char out[PATH_MAX], lots[PATH_MAX];
	struct err err = {0};

	for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
		is_int(sign(path_by_folder(orders[i].a, orders[i].b)), orders[i].want, "%s and %s", orders[i].a, orders[i].b);
		is_int(sign(path_by_folder(orders[i].b, orders[i].a)), -orders[i].want, "... the other way round");
	}

	memset(lots, 'x', sizeof(lots) - 1);
	lots[sizeof(lots) - 1] = '\0';
	ok(path_format(out, &err, "%s", lots) == 0 && strcmp(out, lots) == 0, "a path as long as may be");
	is_int(path_format(out, &err, "/%s", lots), -1, "a longer one");
	is_err(&err, ERR_FAILED, "could not use path \"/xxx", "... is refused");
	is_int(err.os_errno, ENAMETOOLONG, "... by errno, too");
	return tap_done();
}
