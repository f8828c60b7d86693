/* The proof before a promotion, part by part; the moves of a switchover; what servers say of themselves. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/switchover/controldata.h"
#include "ctl/switchover/logbook.h"
#include "ctl/switchover/proof.h"
#include "ctl/switchover/svg.h"
#include "ctl/switchover/syncnames.h"
#include "tests/unit/tap.h"

#define CLUSTER 7123456789012345678u
#define AT 0x3000128u
#define END 0x30001a0u

/* Everything as it is after a clean stop. */
static struct proof_facts
good(void)
{
	return (struct proof_facts){
	    .system_identifier = CLUSTER,
	    .tli = 4,
	    .old = "red",
	    .stream_known = true,
	    .stream_upstream = "red",
	    .stream_system_identifier = CLUSTER,
	    .stream_tli = 4,
	    .stream_record = AT,
	    .stream_record_end = END,
	    .stream_received = END,
	    .stream_sent = END,
	    .stream_shutdown_checkpoint = true,
	    .stream_complete = true,
	    .stream_end = "complete",
	    .control_known = true,
	    .control = {.system_identifier = CLUSTER, .state = DATADIR_SHUTDOWNED, .checkpoint = AT, .redo = AT, .tli = 4},
	    .target_known = true,
	    .target_recovery = true,
	    .target_system_identifier = CLUSTER,
	    .target_tli = 4,
	    .target_flushed = END,
	    .target_replayed = END};
}

/* Which parts hold: one letter each, "-" for one that does not. */
static const char *
held(const struct proof_facts *f, struct proof *p)
{
	static char text[PROOF_PARTS + 1];

	proof_judge(f, p);
	for (int i = 0; i < PROOF_PARTS; i++)
		text[i] = p->held[i] ? proof_part_name((enum proof_part)i)[0] : '-';
	return text;
}

/* One fact is another, and the parts that hold are these. */
#define WITHOUT(change, parts, why_part, why_text)                                                                     \
	do {                                                                                                               \
		struct proof_facts f = good();                                                                                 \
		struct proof p;                                                                                                \
		change;                                                                                                        \
		is_str(held(&f, &p), parts, "%s", #change);                                                                    \
		ok(!proof_holds(&p), "so nothing is promoted");                                                                \
		ok(strstr(p.why[why_part], why_text) != NULL, "because: %s", p.why[why_part]);                                 \
	} while (0)

static void
proofs(void)
{
	struct proof_facts f = good();
	struct proof p;

	is_str(held(&f, &p), "rccr", "after a clean stop all parts hold");
	ok(proof_holds(&p) && p.lsn == AT && p.end == END, "and the shutdown checkpoint is known");
	f.target_replayed += 8192;
	f.target_flushed += 8192;
	is_str(held(&f, &p), "rccr", "a standby may be past the record's end");
	f.target_tli = 3;
	is_str(held(&f, &p), "rccr", "its pg_control may not know the timeline yet that it streamed");
	memset(&f, 0, sizeof(f));
	is_str(held(&f, &p), "----", "who knows nothing proves nothing");
}

static void
broken_proofs(void)
{
	WITHOUT(f.stream_known = false, "----", PROOF_RECORD, "the proxy knows of no stream");
	WITHOUT(strcpy(f.stream_upstream, "green"), "----", PROOF_COMPLETE, "came from node \"green\", not from \"red\"");
	WITHOUT(f.stream_tli = 3, "----", PROOF_RECORD, "of timeline 3, not of 4");
	WITHOUT(f.stream_system_identifier++, "----", PROOF_RECORD, "of another cluster");
	WITHOUT(f.stream_record = 0, "-c--", PROOF_RECORD, "no whole record");
	WITHOUT(f.stream_shutdown_checkpoint = false, "-c--", PROOF_RECORD, "no shutdown checkpoint");
	WITHOUT(f.stream_sent = END - 1, "-c--", PROOF_RECORD, "ends at 0/30001A0, but the stream at 0/300019F");
	WITHOUT(f.stream_sent = f.stream_received = END + 8, "-c--", PROOF_RECORD, "but the stream at 0/30001A8");
	WITHOUT(f.stream_received = END + 1, "-c--", PROOF_RECORD, "but the stream at 0/30001A1");
	WITHOUT(f.stream_complete = false; strcpy(f.stream_end, "lost"), "r-cr", PROOF_COMPLETE, ": lost");
	WITHOUT(f.control_known = false, "rc-r", PROOF_CONTROL, "could not be read");
	WITHOUT(f.control.system_identifier--, "rc-r", PROOF_CONTROL, "of another cluster");
	WITHOUT(f.control.state = DATADIR_IN_PRODUCTION, "rc-r", PROOF_CONTROL, "says \"in production\"");
	WITHOUT(f.control.state = DATADIR_SHUTDOWNED_IN_RECOVERY, "rc-r", PROOF_CONTROL, "\"shut down in recovery\"");
	WITHOUT(f.control.state = DATADIR_SHUTDOWNING, "rc-r", PROOF_CONTROL, "\"shutting down\"");
	WITHOUT(f.control.tli = 5, "rc-r", PROOF_CONTROL, "on timeline 5");
	WITHOUT(f.control.checkpoint = END, "rc-r", PROOF_CONTROL, "shut down at 0/30001A0, which is not where");
	WITHOUT(f.target_known = false, "rcc-", PROOF_REPLAYED, "could not be asked");
	WITHOUT(f.target_system_identifier--, "rcc-", PROOF_REPLAYED, "of another cluster");
	WITHOUT(f.target_recovery = false, "rcc-", PROOF_REPLAYED, "in recovery no more");
	WITHOUT(f.target_tli = 5, "rcc-", PROOF_REPLAYED, "on timeline 5");
	WITHOUT(f.target_flushed = END - 1, "rcc-", PROOF_REPLAYED, "flushed to 0/300019F");
	WITHOUT(f.target_replayed = AT, "rcc-", PROOF_REPLAYED, "replayed to 0/3000128");
}

static void
moves(void)
{
	for (int from = 0; from < SWITCH_STATES; from++)
		for (int to = 0; to < SWITCH_STATES; to++) {
			bool next = to == from + 1 && to <= SWITCH_DONE;
			bool back = to == SWITCH_ABORTING && from <= SWITCH_PROMOTING;
			bool end = from == SWITCH_ABORTING && to == SWITCH_ABORTED;

			if (switch_may_move((enum switch_state)from, (enum switch_state)to) != (next || back || end))
				ok(false, "from \"%s\" to \"%s\"", switch_state_name((enum switch_state)from),
				   switch_state_name((enum switch_state)to));
		}
	ok(true, "one step at a time, and back until the target is promoted");
}

static void
logbooks(void)
{
	char folder[] = "/tmp/switchover_test.XXXXXX", command[64];
	struct logbook a, b, again;
	struct err err = {0};

	if (!ok(mkdtemp(folder) != NULL && logbook_open(&a, folder, &err) == 0, "a logbook is opened"))
		return;
	ok(logbook_open(&b, folder, &err) != 0, "by one at a time");
	is_err(&err, ERR_REFUSED, "another switchover is running, in process ", "the second is told so");
	is_int(logbook_read(&a, &err), 0, "nothing is in it");
	a.kind = SWITCH_ROTATE;
	a.old_fate = SWITCH_OLD_REENCRYPT;
	strcpy(a.from, "red");
	strcpy(a.to, "blue");
	strcpy(a.before.relation, "0123456789abcdef");
	a.after.epoch = 3;
	a.system_identifier = CLUSTER;
	a.tli = 4;
	a.checkpoint = AT;
	a.hold = a.fence = true;
	ok(logbook_add_slot(&a, "one", &err) == 0 && logbook_add_slot(&a, "two", &err) == 0, "slots are noted");
	ok(logbook_begin(&a, &err) == 0 && logbook_move(&a, SWITCH_SLOTS, &err) == 0, "it goes on");
	ok(logbook_move(&a, SWITCH_PROMOTED, &err) != 0 && a.state == SWITCH_SLOTS, "but not where it must not");
	is_err(&err, ERR_FAILED, "cannot go from \"slots\" to \"promoted\"", "which is said");
	logbook_close(&a);
	ok(logbook_open(&again, folder, &err) == 0 && logbook_read(&again, &err) == 1, "another reads it");
	ok(again.kind == SWITCH_ROTATE && again.state == SWITCH_SLOTS && again.old_fate == SWITCH_OLD_REENCRYPT &&
	       strcmp(again.from, "red") == 0 && strcmp(again.to, "blue") == 0 && again.after.epoch == 3 &&
	       strcmp(again.before.relation, "0123456789abcdef") == 0 && again.system_identifier == CLUSTER &&
	       again.tli == 4 && again.checkpoint == AT && again.hold && again.fence && !again.traffic &&
	       again.nslots == 2 && strcmp(again.slots[1], "two") == 0 && again.at[SWITCH_SLOTS] > 1e9 &&
	       again.at[SWITCH_PROVEN] == 0,
	   "with all that was in it");
	ok(logbook_finish(&again, &err) == 0 && logbook_read(&again, &err) == 0, "and puts it aside");
	logbook_close(&again);
	snprintf(command, sizeof(command), "echo '{' > %s/switchover.json", folder);
	ok(system(command) == 0 && logbook_open(&again, folder, &err) == 0 && logbook_read(&again, &err) == -1,
	   "a damaged one is no good");
	is_err(&err, ERR_DAMAGED, "is damaged", "which is said");
	logbook_close(&again);
	snprintf(command, sizeof(command), "rm -r %s", folder);
	ok(system(command) == 0, "the end");
}

static void
control_data(void)
{
	static const char text[] = "pg_control version number:            1300\n"
	                           "Catalog version number:               202209061\n"
	                           "Database system identifier:           7123456789012345678\n"
	                           "Database cluster state:               shut down\n"
	                           "Latest checkpoint location:           0/3000128\n"
	                           "Latest checkpoint's REDO location:    0/3000128\n"
	                           "Latest checkpoint's TimeLineID:       4\n"
	                           "Bytes per WAL segment:                16777216\n"
	                           "Data page checksum version:           1\n";
	struct datadir_control c;
	struct err err = {0};

	ok(controldata_parse(text, &c, &err) == 0 && c.system_identifier == CLUSTER && c.state == DATADIR_SHUTDOWNED &&
	       c.checkpoint == AT && c.tli == 4 && c.checksum_version == 1 && c.wal_segment_size == 16777216,
	   "what pg_controldata prints");
	ok(controldata_parse("Database cluster state:   shut down somehow\n", &c, &err) != 0, "an unknown state");
	is_err(&err, ERR_DAMAGED, "Database cluster state:", "is named");
	ok(controldata_parse("ssh: could not resolve\n", &c, &err) != 0, "something else");
	ok(controldata_parse("Database cluster state:   shut down\npg_control version number: x\n", &c, &err) != 0,
	   "no number");
	is_err(&err, ERR_DAMAGED, "pg_control version number:", "is named, too");
}

static void
sync_names(void)
{
	static const char *const there[] = {"green", "Blue-2", "a,b"};
	static const struct {
		const char *setting;
		size_t n;
		bool satisfied;
	} cases[] = {{"", 0, true},
	             {"  ", 0, true},
	             {"green", 3, true},
	             {"GREEN", 3, true},
	             {"blue", 3, false},
	             {"blue, green", 3, true},
	             {"*", 0, false},
	             {"*", 1, true},
	             {"\"Blue-2\"", 3, true},
	             {"\"a,b\"", 3, true},
	             {"FIRST 2 (green, \"Blue-2\")", 3, true},
	             {"first 2 (green, *)", 1, false},
	             {"ANY 2 (green, x, y)", 3, false},
	             {"ANY 1 (x, y, green)", 3, true},
	             {"2 (green, \"blue-2\")", 3, true},
	             {"3(*)", 3, true},
	             {"4 (*)", 3, false}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		ok(syncnames_satisfied(cases[i].setting, there, cases[i].n) == cases[i].satisfied, "\"%s\" with %zu standbys",
		   cases[i].setting, cases[i].n);
}

/* Commits of each tenth of a second, though the clock was set in between. */
static void
pictures(void)
{
	struct sample list[] = {{.at = 1000.00, .xid = 10}, {.at = 1000.05, .xid = 12}, {.at = 1000.35, .xid = 15},
	                        {.at = 999.00, .xid = 16},  {.at = 990.00, .xid = 20},  {.at = 1000.15, .xid = 24}};
	const struct samples s = {.list = list, .n = sizeof(list) / sizeof(list[0])};
	double begin = 0;
	uint64_t *bins;
	size_t n = 0;

	bins = samples_bins(&s, &begin, &n);
	ok(bins != NULL && n == 4 && begin == 1000.0,
	   "a clock set back: there is room for all that came behind the beginning");
	ok(n == 4 && bins[0] == 2 && bins[1] == 0 && bins[2] == 0 && bins[3] == 3,
	   "... and what seems to be before it is left out");
	free(bins);
}

/* Resumed three days later: the picture is of what happened, not of the days. */
static void
late_picture(void)
{
	struct sample list[] = {
	    {.at = 1000, .xid = 10}, {.at = 1000.2, .xid = 14}, {.at = 260200, .xid = 14}, {.at = 260200.2, .xid = 15}};
	const struct samples s = {.list = list, .n = sizeof(list) / sizeof(list[0])};
	struct logbook l = {.from = "red", .to = "blue"};
	char *text = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);
	unsigned bars = 0, labels = 0;

	svg_write(to, &l, &s);
	fclose(to);
	for (const char *p = text; (p = strstr(p, "fill=\"#3b7dd8\"")) != NULL; p++)
		bars++;
	for (const char *p = text; (p = strstr(p, " s</text>")) != NULL; p++)
		labels++;
	ok(bars == 2, "a resumed switchover's picture: %u bars, where there were commits", bars);
	ok(labels > 5 && labels <= 21, "... and %u labels of its time", labels);
	free(text);
}

int
main(void)
{
	proofs();
	broken_proofs();
	moves();
	logbooks();
	control_data();
	sync_names();
	pictures();
	late_picture();
	return tap_done();
}
