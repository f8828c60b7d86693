/* key new-epoch: another WAL key for what a promotion begins. The work is ctl/epoch.c's, which rotate calls, too. */
#include "ctl/command.h"
#include "ctl/epoch.h"
#include "ctl/layer.h"

struct key_epoch_options {
	struct common_options common;
	const char *datadir, *kek;
	int timeline;
	bool provider_random;
};

static const struct option_def key_epoch_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct key_epoch_options, datadir), "DIR",
     "data directory whose keys lie in no keystore, instead of keysets", 0, 0},
    KEK_OPTION(struct key_epoch_options, "the configuration's"),
    {"timeline", 0, OPTION_NUMBER, offsetof(struct key_epoch_options, timeline), "NUMBER",
     "the present timeline (default: the nodes are asked)", 1, 2147483647},
    PROVIDER_RANDOM_OPTION(struct key_epoch_options),
    COMMON_OPTIONS,
    OPTIONS_END};

static int
key_epoch_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_epoch_options *o = options;
	struct epoch_stage s = {.config = o->common.config,
	                        .kek = o->kek,
	                        .provider_random = o->provider_random,
	                        .names = args,
	                        .nnames = nargs};
	char datadir[PATH_MAX];

	if ((nargs == 0) == (o->datadir == NULL)) {
		err_set(err, ERR_USAGE, "name keysets, or a data directory");
		return err_hint(err, "Give the NAMEs of keysets in the keystore, or -D DIR.");
	}
	s.timeline = (uint32_t)o->timeline;
	if (o->datadir != NULL) {
		if (datadir_option(o->datadir, datadir, err) != 0)
			return -1;
		s.datadir = datadir;
	}
	return epoch_stage(&s, err);
}

const struct command command_key_new_epoch = {
    .name = "key new-epoch",
    .arguments = "NAME... | -D DIR [--timeline NUMBER] [--kek SOURCE] [--provider-random]",
    .summary = "stage the next WAL key, which the next promotion takes into use",
    .more =
        "Keysets that share a WAL key get the same epoch, together or one after the other. WAL that is written already "
        "stays under its epoch, and readable.",
    .options = key_epoch_defs,
    .style = OPTIONS_ALL,
    .max_args = 64,
    .run = key_epoch_run,
    .audit = AUDIT_OR_REFUSE,
};
_Static_assert(sizeof(struct key_epoch_options) <= COMMAND_OPTIONS_MAX, "options fit");
