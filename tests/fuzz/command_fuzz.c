/* Any text: parsed or refused; what is parsed can be judged, written, and parsed again into the same text. */
#include "replication/command.h"
#include "tests/fuzz/sink.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct command cmd, again;
	struct command_backup backup;
	struct err err = {0};
	char *text = NULL, *twice = NULL;

	if (command_parse((const char *)data, len, &cmd, &err) != 0)
		return 0;
	if (command_check(&cmd, &err) == 0 && cmd.kind == COMMAND_BASE_BACKUP && command_backup(&cmd, &backup, &err) != 0)
		abort();
	if (command_write(&cmd, &text, &err) == 0) {
		if (command_parse(text, strlen(text), &again, &err) != 0 || again.kind != cmd.kind ||
		    command_write(&again, &twice, &err) != 0 || strcmp(text, twice) != 0)
			abort();
		command_free(&again);
	}
	free(text);
	free(twice);
	command_free(&cmd);
	return 0;
}
