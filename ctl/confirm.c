#include "ctl/confirm.h"

#include <stdio.h>
#include <string.h>

int
confirm_typed(const char *question, const char *word, struct err *err)
{
	FILE *tty = fopen("/dev/tty", "r+e");
	char line[256] = "";

	if (tty == NULL) {
		err_set(err, ERR_REFUSED, "there is no terminal to confirm it on");
		return err_hint(err, "Run it where somebody can type \"%s\".", word);
	}
	fprintf(tty, "%s\nType %s to do it: ", question, word);
	fflush(tty);
	if (fgets(line, sizeof(line), tty) == NULL)
		line[0] = '\0';
	line[strcspn(line, "\r\n")] = '\0';
	fclose(tty);
	return strcmp(line, word) == 0 ? 0 : err_set(err, ERR_REFUSED, "not confirmed: nothing was changed");
}
