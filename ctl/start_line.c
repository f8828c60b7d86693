#include "ctl/start_line.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ctl/server_setting.h"

#define PORTS_TRIED 100

/* As a shell wants it. */
static void
word_print(const char *word)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,@+";

	if (*word != '\0' && strspn(word, plain) == strlen(word)) {
		fputs(word, stdout);
		return;
	}
	putchar('\'');
	for (; *word != '\0'; word++)
		if (*word == '\'')
			fputs("'\\''", stdout);
		else
			putchar(*word);
	putchar('\'');
}

void
start_line_print(const struct source *source, const char *datadir, int port)
{
	/* pg_ctl would find nothing to start with */
	if (!server_has_config(datadir)) {
		printf("There is no postgresql.conf in it, as in those of Debian's pg_createcluster: start it by "
		       "pg_ctlcluster, with the\n"
		       "storage layer in /etc/postgresql/VERSION/NAME/environment (environment.sample shows what that "
		       "needs).\n\n");
		return;
	}
	printf("Start it with:\n\n    walcrypt-ctl exec -D ");
	word_print(datadir);
	printf(" %s ", source->section != NULL ? "--config" : "--kek");
	word_print(source->section != NULL ? source->settings->file : source->reference);
	if (source->section != NULL && source->settings->nkeks > 1)
		printf(" --kek %s", source->section);
	printf(" -- pg_ctl -l ");
	word_print(datadir);
	printf(".log ");
	if (port > 0)
		printf("-o '-p %d' ", port);
	printf("start\n\n");
}

/* Could a server listen there? */
static bool
port_is_free(int port)
{
	struct sockaddr_in at = {
	    .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	bool is_free;

	if (fd < 0)
		return true;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	is_free = bind(fd, (const struct sockaddr *)&at, sizeof(at)) == 0;
	close(fd);
	return is_free;
}

int
start_port_choose(const char *datadir, int wanted)
{
	char value[PATH_MAX];
	struct err ignored;

	if (wanted == 0 && server_setting(datadir, NULL, "port", value, &ignored) == 0)
		wanted = (int)strtol(value, NULL, 10);
	if (wanted <= 0 || wanted > UINT16_MAX)
		return 0;
	for (int port = wanted; port <= UINT16_MAX && port < wanted + PORTS_TRIED; port++)
		if (port_is_free(port)) {
			if (port != wanted)
				printf("Port %d is in use on this machine, so that another one is given below.\n", wanted);
			return port;
		}
	return wanted;
}
