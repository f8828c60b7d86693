# Goal: every replication command that walsenders know is answered through the proxy as the primary itself answers it, or
# refused with words that say what to do; whoever comes by mistake is told what this is; the console works.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 128MB\n");
$red->start;
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' }, plain => { keyset => 'none', allow_clear => 'on' }, store => { keyset => 'blue', profile => 1 },
		(map { my ($name, $word) = @$_; $name => { keyset => 'blue', profile => 1, allow_commands => $word } } [ lean => 'stream' ], [ saver => 'backup' ], [ slotter => 'slots' ]),
		afar => { keyset => 'blue', profile => 1, allow_addr => '10.9.8.7' } });
$proxy->key_init('blue');
$proxy->start;

# (exit status, stdout, stderr) of one command
sub run_psql
{
	my ($conninfo, @commands) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'psql', '-X', '-A', '-v', 'VERBOSITY=verbose', '-d', $conninfo, map { ('-c', $_) } @commands ], '<', \undef, '>', \$out, '2>', \$err);
	return ($? >> 8, $out, $err);
}
my $me = (getpwuid($<))[0];
my $direct = $red->connstr_for_proxy . ' dbname=x replication=true';
my $blue = $proxy->connstr('blue') . ' dbname=x replication=true';

for my $commands (
	['IDENTIFY_SYSTEM'], ['SHOW wal_segment_size'], ['SHOW data_directory_mode', 'SHOW server_version'], ['SHOW nothing_such'],
	['TIMELINE_HISTORY 7'], ['READ_REPLICATION_SLOT none'], ['DROP_REPLICATION_SLOT none'],
	[ 'CREATE_REPLICATION_SLOT a PHYSICAL RESERVE_WAL', 'READ_REPLICATION_SLOT a', 'CREATE_REPLICATION_SLOT a PHYSICAL', 'DROP_REPLICATION_SLOT a' ],
	[ 'CREATE_REPLICATION_SLOT t TEMPORARY PHYSICAL (RESERVE_WAL true)', 'DROP_REPLICATION_SLOT t WAIT' ],
	['CREATE_REPLICATION_SLOT "Not Valid" PHYSICAL'], ['IDENTIFY_SYSTEM;'], ['START_REPLICATION SLOT "none" PHYSICAL 0/1000000'],
	['IDENTIFY'], ['BASE_BACKUP (NO_SUCH_OPTION 1)'], ['identify_system'],
	['START_REPLICATION 0/0 TIMELINE 0'], ['START_REPLICATION'], ['TIMELINE_HISTORY 0'], ['TIMELINE_HISTORY'], ['SHOW "wal_level"'], ['SHOW no.such'], ['SHOW'],
	# each option of a base backup, and what is wrong with it
	["BASE_BACKUP (CHECKPOINT 'slow')"], ['BASE_BACKUP (MAX_RATE 1)'], ['BASE_BACKUP (MAX_RATE 1048577)'], ["BASE_BACKUP (WAIT 'maybe')"], ["BASE_BACKUP (WAL 'maybe')"], ["BASE_BACKUP (PROGRESS 'maybe')"],
	["BASE_BACKUP (TABLESPACE_MAP 'maybe')"], ["BASE_BACKUP (VERIFY_CHECKSUMS 'maybe')"], ["BASE_BACKUP (MANIFEST 'maybe')"], ["BASE_BACKUP (MANIFEST 'yes', MANIFEST_CHECKSUMS 'md5')"], ["BASE_BACKUP (MANIFEST_CHECKSUMS 'sha256')"],
	["BASE_BACKUP (LABEL 'a', LABEL 'b')"], ["BASE_BACKUP (LABEL '" . 'x' x 1025 . "')"], ['BASE_BACKUP ()'], ['BASE_BACKUP (LABEL'],
	['BASE_BACKUP (INCREMENTAL)'],
	# what 17 and 18 have added; the older ones' own error then
	['ALTER_REPLICATION_SLOT none (FAILOVER true)'], ['ALTER_REPLICATION_SLOT none (TWO_PHASE false, FAILOVER false)'], ['CREATE_REPLICATION_SLOT f PHYSICAL (FAILOVER true)'])
{
	# the primary writes WAL by itself, too: an answer that it has changed meanwhile is asked for again
	my (@wanted, @got);
	do {
		@wanted = run_psql($direct, @$commands);
		@got = run_psql($blue, @$commands);
	} until $got[1] eq $wanted[1] || (run_psql($direct, @$commands))[1] eq $wanted[1];
	# the file and line of the error, and what is refused before it gets there, may differ in words only
	for (@wanted, @got) { s/^LOCATION:.*\n//mg; s/^LINE \d+:.*\n\s*\^\n//mg; }
	is($got[0], $wanted[0], "@$commands: exit status");
	is($got[1], $wanted[1], "@$commands: the same answer");
	my @errors = map { /ERROR:\s+(\w+):/ ? $1 : '' } $wanted[2], $got[2];
	is($errors[1], $errors[0], "@$commands: the same error") or diag($wanted[2], $got[2]);
}
my @slot = run_psql($blue, 'READ_REPLICATION_SLOT none');
like($slot[1], qr/slot_type\|restart_lsn\|restart_tli\n\|\|/, 'NULLs stay NULLs');

# what a base backup may be asked for all at once: it comes as the primary's does, message by message
for my $options ('', "(LABEL 'x', PROGRESS, CHECKPOINT 'fast', WAIT false, WAL, MAX_RATE 1048576, TABLESPACE_MAP, VERIFY_CHECKSUMS false, MANIFEST 'force-encode', MANIFEST_CHECKSUMS 'SHA512', TARGET 'client', COMPRESSION 'none')",
	"(PROGRESS 'off', CHECKPOINT 'fast', WAIT 0, WAL 'false', TABLESPACE_MAP 1, VERIFY_CHECKSUMS 'on', MANIFEST 'no')") {
	my @types = map {
		my $c = Walcrypt::Wire->connect($_);
		$c->startup(user => $_ == $proxy ? 'blue' : $me, replication => 'true');
		$c->until('Z');
		$c->send('Q', "BASE_BACKUP $options\0");
		my ($types, $last, $archives, $manifest) = ('', undef, '', 0);
		while (my ($type, $body) = $c->message) {
			$types .= $type if $type ne 'N' && ($type ne 'd' || $types !~ /d$/);
			$archives .= ' ' . (split(/\0/, substr($body, 1)))[0] if $type eq 'd' && $body =~ /^n/;
			$manifest++ if $type eq 'd' && $body =~ /^m/;
			($last) = { Walcrypt::Wire::fields($body) }->{M} if $type eq 'E';
			last if $type eq 'Z';
		}
		"$types$archives, manifest: $manifest" . ($last // '');
	} $red, $proxy;
	like($types[0], qr/^TDCTDCHdcTDCCZ base\.tar, manifest: [01]$/, "BASE_BACKUP $options: the primary's messages");
	is($types[1], $types[0], '... and the proxy\'s');
}

# without "backup" no setting is shown that may have a password in it
for my $case ([ 'SHOW wal_segment_size', 1 ], [ 'SHOW data_directory_mode', 1 ], [ 'SHOW "Server_Version"', 1 ], [ 'SHOW primary_conninfo', 0 ], [ 'SHOW all', 0 ], [ 'SHOW ALL', 0 ], [ 'SHOW "primary_conninfo"', 0 ], [ 'SHOW wal_segment_size.x', 0 ]) {
	my ($query, $shown) = @$case;
	my (undef, $out, $err) = run_psql($proxy->connstr('lean') . ' dbname=x replication=true', $query, 'IDENTIFY_SYSTEM');
	$shown ? is($err, '', "$query: shown to a profile without \"backup\"") : like($err, qr/42501: "lean" may not see the upstream's setting.*HINT:.*"backup"/s, "$query: not shown to a profile without \"backup\"");
	like($out, qr/systemid/, '... whose session goes on');
	(undef, undef, $err) = run_psql($blue, $query);
	unlike($err, qr/may not see/, '... with "backup" it is the upstream\'s affair');
}

# each command with the word that allows it, and with no other; by what the upstream refuses, or begins
my %profile = (stream => 'lean', backup => 'saver', slots => 'slotter');
for my $case ([ 'START_REPLICATION PHYSICAL F/0', 'stream' ], [ 'TIMELINE_HISTORY 7', 'stream' ], [ 'BASE_BACKUP (MAX_RATE 1)', 'backup' ], [ 'UPLOAD_MANIFEST', 'backup' ],
	[ 'CREATE_REPLICATION_SLOT "Not Valid" PHYSICAL', 'slots' ], [ 'READ_REPLICATION_SLOT none', 'slots' ], [ 'ALTER_REPLICATION_SLOT none (FAILOVER true)', 'slots' ],
	[ 'DROP_REPLICATION_SLOT none', 'slots' ], [ 'IDENTIFY_SYSTEM', 'backup slots stream' ]) {
	my ($command, $words) = @$case;
	my @allowed = grep {
		my $c = Walcrypt::Wire->begin($proxy, $profile{$_});
		$c->send('Q', "$command\0");
		my ($seen, $body) = $c->until('ZEG');
		my %f = Walcrypt::Wire::fields($seen =~ /E$/ ? $body : '');
		($f{M} // '') !~ /^"$profile{$_}" may not use/ || $f{C} ne '42501';
	} sort keys %profile;
	is("@allowed", $words, "$command: allowed by $words");
}

# refused
my @refused = (
	[ 'SELECT 1', qr/0A000/ ], [ 'CREATE_REPLICATION_SLOT l LOGICAL test_decoding', qr/logical/i ], [ 'START_REPLICATION SLOT l LOGICAL 0/0', qr/logical/i ],
	[ "BASE_BACKUP (COMPRESSION 'gzip')", qr/compress/i ], [ "BASE_BACKUP (COMPRESSION 'none', COMPRESSION_DETAIL '3')", qr/compress/i ], [ "BASE_BACKUP (TARGET 'server', TARGET_DETAIL '/x')", qr/target/i ]);
for my $case (@refused) {
	my ($rc, $out, $err) = run_psql($blue, $case->[0], 'IDENTIFY_SYSTEM');
	like($err, $case->[1], "$case->[0]: refused");
	like($err, qr/^HINT:/m, "$case->[0]: with what to do instead");
	like($out, qr/systemid/, "$case->[0]: the session goes on");
}
my ($rc, $out, $err) = run_psql($blue, 'START_REPLICATION PHYSICAL F/0');
like($err, qr/ahead of the WAL flush position/, 'a position ahead of the primary is refused');
($rc, $out, $err) = run_psql($blue, 'START_REPLICATION PHYSICAL 0/1000000 TIMELINE 9');
like($err, qr/timeline/, 'a timeline that the primary does not have is refused');
is($red->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '0', 'no slot is left');

# by mistake
my @mistakes = (
	[ $proxy->connstr('red') . ' replication=true', qr/node "red" is clear.*HINT.*allow_clear/s ],
	[ $proxy->connstr('nobody') . ' replication=true', qr/no node or profile "nobody".*HINT/s ],
	[ $proxy->connstr('afar') . ' replication=true', qr/"afar" may not connect from local/ ],
	[ $proxy->connstr('blue') . ' dbname=postgres', qr/this is walcrypt-proxy.*HINT/s ],
	[ $proxy->connstr('blue') . ' dbname=postgres replication=database', qr/logical replication.*HINT/s ],
	[ $proxy->connstr('blue') . ' dbname=walcrypt', qr/console.*HINT.*admin_users/s ]);
for my $case (@mistakes) {
	($rc, $out, $err) = run_psql($case->[0], 'SELECT 1');
	isnt($rc, 0, 'refused');
	like($err, $case->[1], 'and told what to do');
}
($rc, $out, $err) = run_psql('host=127.0.0.1 port=' . $proxy->port . ' user=blue dbname=x replication=true sslmode=prefer gssencmode=prefer', 'IDENTIFY_SYSTEM');
is($rc, 0, 'requests for TLS and GSS are declined, the session goes on over TCP') or diag($err);
($rc, $out, $err) = run_psql('host=127.0.0.1 port=' . $proxy->port . ' user=blue dbname=x replication=true sslmode=require', 'IDENTIFY_SYSTEM');
like($err, `pg_config --configure` =~ /openssl/ ? qr/does not support SSL/ : qr/SSL support is not compiled in/, 'who insists on TLS is told that there is none');

# settings in the startup packet
{
	local $ENV{PGOPTIONS} = '-c wal_sender_timeout=7min --statement-timeout=2000 -cDateStyle=iso\\,\\ dmy';
	($rc, $out, $err) = run_psql($blue, 'SHOW wal_sender_timeout', 'SHOW statement_timeout', 'SHOW datestyle');
	like($out, qr/^7min\n.*^2s\n.*^ISO, DMY\n/ms, 'settings that replication clients have a use for go on');
	for my $case ([ '-c session_preload_libraries=x', qr/FATAL:\s+startup option "session_preload_libraries" is not passed on.*^HINT:.*ALTER ROLE/ms ],
		[ '-c wal_sender_timeout=1min -c log_replication_commands=on', qr/startup option "log_replication_commands"/ ], [ '-d 5', qr/startup options have "-d", which is no setting.*^HINT:/ms ])
	{
		$ENV{PGOPTIONS} = $case->[0];
		($rc, $out, $err) = run_psql($blue, 'IDENTIFY_SYSTEM');
		like($err, $case->[1], "$case->[0]: refused by name");
	}
}

# the upstream's own refusals come through
$red->append_conf('postgresql.conf', 'max_wal_senders = 1');
$red->restart;
my $holder = IPC::Run::start([ 'pg_receivewal', '-d', $red->connstr_for_proxy, '-D', PostgreSQL::Test::Utils::tempdir() ], '>&', \my $ignored);
wait_for('pg_receivewal', sub { $red->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_replication') == 1 });
($rc, $out, $err) = run_psql($blue, 'IDENTIFY_SYSTEM');
like($err, qr/could not connect to upstream "red".*max_wal_senders/s, "the upstream's reason is passed on");
$holder->signal('TERM');
$holder->finish;
$red->append_conf('postgresql.conf', 'max_wal_senders = 10');
$red->restart;

# a clear profile's answers, and application names
my $waiter = IPC::Run::start([ 'pg_receivewal', '-d', $proxy->connstr('store') . ' application_name=archive', '-D', my $archive = PostgreSQL::Test::Utils::tempdir() ], '>&', \$ignored);
wait_for('the stream', sub { $red->safe_psql('postgres', "SELECT state FROM pg_stat_replication WHERE application_name = 'archive'") eq 'streaming' });
ok(1, 'the application name arrives upstream');

# the console; a session has a position when something has been sent to it
my $sessions;
eval { wait_for('the position', sub { ($sessions = $proxy->console('SHOW SESSIONS')) =~ /\|store\|archive\|.*\|red\|\d+\|1\|0\// }) };
like($sessions, qr/^\d+\|store\|archive\|local\|stream\|START_REPLICATION\|red\|\d+\|1\|0\/\w+\|/m, 'SHOW SESSIONS');
like($proxy->console('show nodes;'), qr/^blue\|node\|blue\|site\|AES256\|[0-9a-f]{16}\|[0-9a-f]{16}\|1\|\d+\|1\|no\|0\|no\|no$/m, 'SHOW NODES');
like($proxy->console('SHOW NODES'), qr/^store\|profile\|blue.*\|1\|yes\|no$/m, 'it counts sessions');
like($proxy->console('SHOW STATUS'), qr/^sessions\|[12]$/m, 'SHOW STATUS');
like($proxy->console('SHOW VERSION'), qr/^walcrypt-proxy \d/, 'SHOW VERSION');
like($proxy->console('SHOW CONFIG'), qr/^workers\|2\|2\|/m, 'SHOW CONFIG');
like($proxy->console('SHOW HELP'), qr/^RELOAD\|/m, 'SHOW HELP');
($out, $err) = $proxy->console('DROP TABLE x');
like($err, qr/unknown query.*HINT:  SHOW HELP/s, 'another query');
($rc, $out, $err) = run_psql($proxy->connstr('monitor') . ' dbname=walcrypt', 'SHOW STATUS', 'SHUTDOWN');
like($err, qr/may look at the console, not change/, 'a stats user may only look');
like($out, qr/version/, 'but that');

# reload: from the console and by SIGHUP, for the better and for the worse
my $before = $proxy->log_size;
$proxy->{settings}{log_level} = 'debug';
$proxy->write_conf;
is($proxy->console('RELOAD'), 'RELOAD', 'RELOAD');
wait_for_file_line($proxy->logfile, qr/reloaded/, $before);
$proxy->console('SHOW VERSION');
like($proxy->log($before), qr/DEBUG:/, 'log_level has changed');
$before = $proxy->log_size;
append_to_file($proxy->conf, "nonsense = 1\n");
kill HUP => $proxy->pid;
wait_for_file_line($proxy->logfile, qr/the configuration stays as it was:.*nonsense/, $before);
$proxy->write_conf;
$proxy->{nodes}{green} = { keyset => 'none', allow_clear => 'on' };
$proxy->write_conf;
$before = $proxy->log_size;
kill HUP => $proxy->pid;
wait_for_file_line($proxy->logfile, qr/reloaded/, $before);
($rc, $out, $err) = run_psql($proxy->connstr('green') . ' dbname=x replication=true', 'IDENTIFY_SYSTEM');
is($rc, 0, 'a node that was added can connect');
is($red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'archive'"), '1', 'reloads drop nobody');

# a cancel request is forwarded
{
	my $slow = IPC::Run::start([ 'psql', '-X', '-d', $blue, '-c', "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', MAX_RATE 32)" ], '<', \undef, '>', \my $slow_out, '2>', \my $slow_err);
	wait_for('the backup', sub { $red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase = 'streaming database files'") == 1 });
	# psql itself waits for ever when it is interrupted before the first bytes of a COPY (with a server's answer too)
	wait_for('the COPY', sub { $slow->pump_nb; length($slow_out) > 20000 });
	$slow->signal('INT');
	$slow->finish;
	like($slow_err, qr/canceling statement due to user request|Cancel request sent/, 'a cancel request arrives upstream');
	wait_for('the walsender to go', sub { $red->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_progress_basebackup') == 0 });
}

# a second proxy on the same ledger
my $second = Walcrypt::Proxy->new(nodes => $proxy->{nodes}, kek => $proxy->{kek}, settings => { keystore => $proxy->keystore });
is($second->start(fail_ok => 1), 0, 'a second proxy on the same ledger does not start');
like($second->log, qr/FATAL:  ledger .* is in use by another process/, 'and says why');

# stopping: the client is told, the status is 0
$before = $proxy->log_size;
$proxy->console('SHUTDOWN');
wait_for('the proxy to end', sub { waitpid($proxy->pid, POSIX::WNOHANG()) == $proxy->pid });
is($?, 0, 'SHUTDOWN ends it in good order');
$proxy->{pid} = undef;
wait_for('a client to be told', sub { $waiter->pump_nb; $ignored =~ /terminating connection/ });
$waiter->signal('TERM');
$waiter->finish;
like($ignored, qr/terminating connection because the proxy is stopped/, 'its clients are told');
done_testing();
