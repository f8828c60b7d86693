/* Settings in a startup packet: which go on, and that nothing gets past the list by the way it is written. */
#include "replication/startup_options.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"

static void
passed(void)
{
	static const struct {
		const char *given, *becomes;
	} rows[] = {
	    {NULL, NULL},
	    {"", NULL},
	    {"  \t ", NULL},
	    {"-c wal_sender_timeout=5min", "-c wal_sender_timeout=5min"},
	    {"-cwal_sender_timeout=5min", "-c wal_sender_timeout=5min"},
	    {"--wal-sender-timeout=5min", "-c wal_sender_timeout=5min"},
	    {" -c  DateStyle=ISO\\ ,\\ MDY ", "-c datestyle=ISO\\ ,\\ MDY"},
	    {"-cdatestyle=iso", "-c datestyle=iso"},
	    {"-c statement_timeout=2000 -c tcp_user_timeout=", "-c statement_timeout=2000 -c tcp_user_timeout="},
	    {"-c timezone=a\\\\b=c", "-c timezone=a\\\\b=c"},
	    {"-c time\\zone=UTC", "-c timezone=UTC"},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct err err = {0};
		char *out = NULL;
		int rc = startup_options_filter(rows[i].given, &out, &err);

		ok(rc == 0 && (out == NULL) == (rows[i].becomes == NULL) && (out == NULL || strcmp(out, rows[i].becomes) == 0),
		   "%s", rows[i].given == NULL ? "none" : rows[i].given);
		if (out != NULL)
			printf("# %s\n", out);
		free(out);
	}
}

static void
refused(void)
{
	static const struct {
		const char *given, *said, *sqlstate;
	} rows[] = {
	    {"-c session_preload_libraries=x", "startup option \"session_preload_libraries\" is not passed on", "42501"},
	    {"-c wal_sender_timeout=1 -clog_statement=none", "\"log_statement\"", "42501"},
	    {"--log-statement=none", "\"log_statement\"", "42501"},
	    {"-c Log_Statement=none", "\"log_statement\"", "42501"},
	    {"-c wal_sender_timeout\\ =1", "\"wal_sender_timeout \"", "42501"},
	    {"-c wal_sender_timeou=1", "\"wal_sender_timeou\"", "42501"},
	    {"-c wal_sender_timeout,=1", "\"wal_sender_timeout,\"", "42501"},
	    {"-c ,=1", "\",\"", "42501"},
	    {"-c role=postgres", "\"role\"", "42501"},
	    {"-d 5", "\"-d\", which is no setting", "42601"},
	    {"-c", "\"-c\", which is no setting", "42601"},
	    {"-c wal_sender_timeout", "\"wal_sender_timeout\", which is no setting", "42601"},
	    {"-c =1", "\"=1\", which is no setting", "42601"},
	    {"wal_sender_timeout=1", "which is no setting", "42601"},
	    {"-- wal_sender_timeout=1", "which is no setting", "42601"},
	    {"\\", "which is no setting", "42601"},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct err err = {0};
		char *out = NULL;

		ok(startup_options_filter(rows[i].given, &out, &err) != 0 && out == NULL, "refused: %s", rows[i].given);
		is_err(&err, ERR_REFUSED, rows[i].said, "... by name");
		is_str(err.sqlstate, rows[i].sqlstate, "... with its code");
	}
}

static int
filter_once(void *arg)
{
	struct err err = {0};
	char *out;
	int rc = startup_options_filter(arg, &out, &err);

	free(out);
	return rc;
}

int
main(void)
{
	char text[] = "-c wal_sender_timeout=1 -c datestyle=iso";

	passed();
	refused();
	ok(failmalloc_each(filter_once, text) > 1, "each allocation failing: reported, nothing leaked");
	return tap_done();
}
