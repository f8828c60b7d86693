/*
 * kekcall: what a provider does besides handing out a key, for tests; keys are shown.
 *   kekcall fetch|twice|create|list|destroy URI [VERSION]
 * twice fetches it, and again when a line comes on stdin.
 * Exit status as walcrypt-ctl's.
 */
#include <stdio.h>
#include <string.h>

#include "common/hex.h"
#include "keymgr/provider.h"
#include "walcrypt/secmem.h"

static void
show(void *arg, const char *name, const char *version, const char *state)
{
	(void)arg;
	(void)state;
	printf("%s %s\n", name, version);
}

static int
fetch(const struct kek_conf *conf, bool create, struct err *err)
{
	struct kek *kek = create ? kek_prepare(conf, true, NULL, NULL, err) : kek_fetch(conf, err);
	char hex[2 * KEK_LEN];

	if (kek == NULL)
		return -1;
	hex_encode(kek->key, KEK_LEN, hex);
	printf("%.*s %s\n", 2 * KEK_LEN, hex, kek->version);
	fflush(stdout);
	kek_free(kek);
	return 0;
}

static int
fetch_twice(const struct kek_conf *conf, struct err *err)
{
	char line[16];

	if (fetch(conf, false, err) != 0)
		return -1;
	return fgets(line, sizeof(line), stdin) != NULL ? fetch(conf, false, err) : -1;
}

int
main(int argc, char **argv)
{
	struct kek_conf conf = {.terminal_fd = -1};
	struct err err = {0};
	int result = -1;

	if (argc < 3)
		return 2;
	conf.uri = argv[2];
	if (secmem_init(256 * 1024, &err) != 0)
		;
	else if (strcmp(argv[1], "fetch") == 0 || strcmp(argv[1], "create") == 0)
		result = fetch(&conf, argv[1][0] == 'c', &err);
	else if (strcmp(argv[1], "twice") == 0)
		result = fetch_twice(&conf, &err);
	else if (strcmp(argv[1], "list") == 0)
		result = kek_list(&conf, show, NULL, &err);
	else if (strcmp(argv[1], "destroy") == 0)
		result = kek_destroy(&conf, argv[3], &err);
	if (result == 0)
		return 0;
	fprintf(stderr, "ERROR:  %s\nDETAIL:  %s\nHINT:  %s\n", err.text, err.detail, err.hint);
	return (int)err.class;
}
