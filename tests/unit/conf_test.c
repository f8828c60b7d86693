/* The configuration file's syntax: what is taken, what is refused and where the message points. */
#include "common/conf.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"

static const char good[] = "# a comment\n"
                           "  ; another\n"
                           "\n"
                           "[walcrypt]\n"
                           "listen_addr=127.0.0.1\r\n"
                           "  conn info\t =  host=a ; b # c 'd'  \n"
                           "empty =\n"
                           "[ node   blue ]\n"
                           "listen_addr = again";

static void
taken(void)
{
	struct err err = {0};
	struct conf *c = conf_parse("w.ini", good, sizeof(good) - 1, &err);

	if (!ok(c != NULL, "a good file"))
		return;
	is_int(c->nsections, 2, "sections");
	is_str(c->sections[0].kind, "walcrypt", "kind");
	ok(c->sections[0].name == NULL, "no name");
	is_int(c->sections[0].line, 4, "line");
	is_int(c->sections[0].nentries, 3, "entries");
	is_str(c->sections[0].entries[0].value, "127.0.0.1", "no blanks, a carriage return");
	is_str(c->sections[0].entries[1].name, "conn info", "a name is cut at its ends only");
	is_str(c->sections[0].entries[1].value, "host=a ; b # c 'd'", "a value is the line's rest, comment signs included");
	is_str(c->sections[0].entries[2].value, "", "an empty value");
	is_str(c->sections[1].kind, "node", "second kind");
	is_str(c->sections[1].name, "blue", "second name");
	is_str(c->sections[1].entries[0].value, "again", "the last line needs no newline");
	is_int(c->sections[1].entries[0].line, 9, "its line");
	conf_free(c);
	c = conf_parse("w.ini", "", 0, &err);
	ok(c != NULL && c->nsections == 0, "an empty file");
	conf_free(c);
	conf_free(NULL);
}

static void
refused(void)
{
	static const struct {
		const char *text, *said;
	} rows[] = {
	    {"a = b\n", "w.ini:1: \"a\" stands before the first [section]"},
	    {"[s]\nnonsense\n", "w.ini:2: line is neither"},
	    {"[s]\n = b\n", "w.ini:2: no name before \"=\""},
	    {"[s\n", "w.ini:1: section does not end"},
	    {"[]\n", "w.ini:1: section without a name"},
	    {"[ ]\n", "w.ini:1: section without a name"},
	    {"[s]\na=1\n\na=2\n", "w.ini:4: \"a\" is set already in line 2"},
	    {"[s]\n[t x]\n[s]\n", "w.ini:3: section [s] stands already in line 1"},
	    {"[t x]\n[t y]\n[t  x]\n", "w.ini:3: section [t x] stands already in line 1"},
	    {"[s]\na=\x01\n", "w.ini:2: control character"},
	    {"[s]\na=\x7f\n", "w.ini:2: control character"},
	    {"[s] # comment\n", "w.ini:1: section does not end"},
	};
	char *big = malloc(2 * CONF_LINE_MAX);
	struct err err;
	struct conf *c;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		ok(conf_parse("w.ini", rows[i].text, strlen(rows[i].text), &err) == NULL, "refused: row %zu", i);
		is_err(&err, ERR_USAGE, rows[i].said, "... and said");
	}
	ok(conf_parse("w.ini", "[s]\na=b\0c\n", 10, &err) == NULL, "a zero byte");
	is_err(&err, ERR_USAGE, "w.ini:2: control character", "... is refused");
	memset(big, 'x', 2 * CONF_LINE_MAX);
	memcpy(big, "[s]\na=", 6);
	c = conf_parse("w.ini", big, 4 + CONF_LINE_MAX, &err);
	ok(c != NULL && strlen(c->sections[0].entries[0].value) == CONF_LINE_MAX - 2, "a line of the greatest length");
	conf_free(c);
	ok(conf_parse("w.ini", big, 5 + CONF_LINE_MAX, &err) == NULL, "one byte more");
	is_err(&err, ERR_USAGE, "w.ini:2: line is longer than 8192 bytes", "... is refused");
	free(big);
}

static void
files(void)
{
	char path[] = "/tmp/conf_testXXXXXX", other[64];
	int fd = mkstemp(path);
	struct err err = {0};
	struct conf *c;

	ok(write(fd, good, sizeof(good) - 1) == (ssize_t)sizeof(good) - 1, "a file");
	c = conf_load(path, &err);
	ok(c != NULL && c->nsections == 2, "... is read");
	conf_free(c);
	chmod(path, 0620);
	ok(conf_load(path, &err) == NULL, "writable for the group");
	is_err(&err, ERR_REFUSED, "may be written by others", "... is refused");
	chmod(path, 0602);
	ok(conf_load(path, &err) == NULL, "writable for all");
	is_err(&err, ERR_REFUSED, "may be written by others", "... is refused");
	chmod(path, 0644);
	if (geteuid() == 0) {
		ok(chown(path, 65534, 65534) == 0 && conf_load(path, &err) == NULL, "another user's");
		is_err(&err, ERR_REFUSED, "belongs to another user", "... is refused");
		ok(strcmp(err.hint, "Run this as \"nobody\", or give the file to root.") == 0, "... and whose it is, is said");
	}
	ok(ftruncate(fd, CONF_FILE_MAX + 1) == 0, "a huge file");
	if (geteuid() == 0)
		ok(chown(path, 0, 0) == 0, "back to root");
	ok(conf_load(path, &err) == NULL, "... is refused");
	is_err(&err, ERR_USAGE, "larger than", "... and said");
	close(fd);
	unlink(path);
	ok(conf_load(path, &err) == NULL, "a missing file");
	is_err(&err, ERR_FAILED, "could not open configuration file", "... is said");
	snprintf(other, sizeof(other), "/tmp");
	ok(conf_load(other, &err) == NULL, "a folder");
	is_err(&err, ERR_REFUSED, "not a regular file", "... is refused");
}

static int
parse_once(void *arg)
{
	struct err err = {0};
	struct conf *c = conf_parse("w.ini", good, sizeof(good) - 1, &err);

	(void)arg;
	if (c == NULL)
		return err.class == ERR_FAILED && strcmp(err.text, "out of memory") == 0 ? -1 : 1;
	conf_free(c);
	return 0;
}

int
main(void)
{
	taken();
	refused();
	files();
	ok(failmalloc_each(parse_once, NULL) > 10, "each allocation failing: reported, nothing leaked");
	return tap_done();
}
