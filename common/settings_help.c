/* settings_help: every option of walcrypt.ini, for people and for the manual page. */
#include <stdio.h>
#include <string.h>

#include "common/settings.h"

static const struct {
	const char *section, *head, *what;
} sections[] = {
    {"walcrypt", "[walcrypt]", "the proxy itself"},
    {"kek", "[kek NAME]", "a cluster key: the key that wraps keysets"},
    {"node", "[node NAME]", "a PostgreSQL server; a standby is the node whose name it connects as"},
    {"profile", "[profile NAME]", "who takes backups and WAL but never becomes a server, as an archive host"},
    {"listen", "[listen NAME]", "a port of its own: who comes through it is taken for the node or profile NAME"},
};

/* A time as it would stand in the file. */
static void
print_time(FILE *to, const char *before, long long ms)
{
	if (ms == 0)
		fprintf(to, "%s0", before);
	else if (ms % 3600000 == 0)
		fprintf(to, "%s%lldh", before, ms / 3600000);
	else if (ms % 1000 == 0)
		fprintf(to, "%s%llds", before, ms / 1000);
	else
		fprintf(to, "%s%lldms", before, ms);
}

static void
print_option(FILE *to, const struct settings_option *o)
{
	long long unit = o->kind == SETTING_SECONDS ? 1000 : 1;

	fprintf(to, "  %-24s (%s", o->name, settings_kind_name(o->kind));
	if (o->kind == SETTING_NUMBER)
		fprintf(to, ", %d to %d", o->min, o->max);
	if (o->kind == SETTING_MS || o->kind == SETTING_SECONDS) {
		print_time(to, ", ", o->min * unit);
		print_time(to, " to ", o->max * unit);
	}
	if (o->def != NULL)
		fprintf(to, "; default: %s", o->def);
	fprintf(to, ")\n      %s\n", o->help);
}

void
settings_help(FILE *to)
{
	for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
		fprintf(to, "%s%s  %s\n", i > 0 ? "\n" : "", sections[i].head, sections[i].what);
		for (size_t k = 0; k < settings_noptions; k++)
			if (strcmp(settings_options[k].section, sections[i].section) == 0)
				print_option(to, &settings_options[k]);
	}
}
