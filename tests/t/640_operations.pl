# Goal: the runbooks of docs/operations.md work as they stand there. Each loss is brought about on real servers, the document's own commands are
# run, and the cluster is whole again: every row is there, and what is committed afterwards reaches the standby.
#
# Stand-ins: systemctl (there is no systemd in a test) starts and stops the one proxy; a full disk is a limit of file sizes.
use strict;
use warnings;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/operations';
mkdir $tmp, 0700;
mkdir "$tmp/$_", 0700 for qw(away bin archive);

# the document: heading => its commands, block by block
my (%blocks, $heading, $block);
for my $line (split /\n/, slurp_file('docs/operations.md')) {
	if (defined $block) {
		if ($line eq '```') { push @{ $blocks{$heading} }, $block; undef $block; }
		else { $block .= "$line\n"; }
	}
	elsif ($line =~ /^#+ (.*)/) { $heading = $1; }
	elsif ($line eq '```sh') { $block = ''; }
}
my %done;

# the cluster: blue, then green from it, each under its own keys
my ($red, $blue, $green) = map { Walcrypt::Node->new($_) } qw(red blue green);
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 512MB\nmax_slot_wal_keep_size = 2GB\nwal_receiver_status_interval = 1s\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, repeat('x', 100) AS text FROM generate_series(1, 2000) i");
my $proxy = Walcrypt::Proxy->new(
	settings => { audit_log => "$tmp/audit.log", switchover_hook => "sh $tmp/hook" },
	nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' }, green => { keyset => 'green' } });
$proxy->key_init($_) for qw(blue green);
$proxy->start;
$blue->init_from_proxy($proxy, 'blue');
$blue->start;
$blue->take_over($red);
$proxy->stop;
$proxy->{nodes} = { map({ $_->name => { keyset => $_->name, conninfo => $_->connstr_for_proxy, datadir => $_->data_dir } } $blue, $green), archive => { profile => 1, keyset => 'blue' } };
$proxy->write_conf;
open(my $hook, '>', "$tmp/hook") or die;
# gone to its last process: one that lives on answers as if the primary did, and then the rotation gives up and puts everything back
print $hook <<"END";
[ -e $tmp/kill ] || exit 0
pid=\$(head -n 1 "$tmp/primary/postmaster.pid")
children=\$(pgrep -P \$pid)
kill -9 \$pid
for child in \$children; do while kill -0 \$child 2>/dev/null; do sleep 0.05; done; done
END
close $hook;
symlink $blue->data_dir, "$tmp/primary" or die;

my $socket = $proxy->host . '/.s.PGSQL.' . $proxy->port;
open(my $f, '>', "$tmp/bin/systemctl") or die;
print $f <<"END";
#!/bin/sh
[ "\$2" = walcrypt-proxy ] || exit 1
case \$1 in
start)
	"$Walcrypt::proxy" -c "\$WALCRYPT_CONFIG" >>"@{[ $proxy->logfile ]}" 2>&1 </dev/null &
	echo \$! >"$tmp/proxy.pid"
	for i in \$(seq 600); do [ -S "$socket" ] && exit 0; kill -0 \$! || exit 1; sleep 0.1; done
	exit 1 ;;
stop)
	pid=\$(cat "$tmp/proxy.pid")
	kill \$pid
	while kill -0 \$pid 2>/dev/null; do sleep 0.1; done ;;
*) exit 1 ;;
esac
END
close $f;
chmod 0755, "$tmp/bin/systemctl";
sub proxy_pid { return slurp_file("$tmp/proxy.pid") + 0; }
END { my $status = $?; kill('KILL', proxy_pid()) if -e "$tmp/proxy.pid"; $? = $status; }

my %env = (
	PATH => "$tmp/bin:$Walcrypt::prefix/bin:$ENV{PATH}", WALCRYPT_CONFIG => $proxy->conf, BLUE => $blue->data_dir, GREEN => $green->data_dir,
	GREEN_PORT => $green->port, KEYSTORE => $proxy->keystore, KEYS_BACKUP => "$tmp/keys.backup", PASSPHRASE => "$tmp/passphrase", AWAY => "$tmp/away",
	BASE_BACKUP => "$tmp/base", ARCHIVE => "$tmp/archive", PGHOST => $blue->host, PGPORT => $blue->port, PGDATABASE => 'postgres', PGUSER => $blue->connstr_for_proxy =~ /user=(\S+)/);
open($f, '>', $env{PASSPHRASE}) or die;
print $f "six words that nobody would guess\n";
close $f;
chmod 0600, $env{PASSPHRASE};

# The next block of a heading, as it stands. Its output.
sub run_block
{
	my ($title) = @_;
	my $n = $done{$title}++;
	my $commands = $blocks{$title}[$n] // die "docs/operations.md has no block " . ($n + 1) . " under \"$title\"";
	local %ENV = (%ENV, %env);
	my ($out, $err) = ('', '');
	# into a file: servers that are started keep their standard output
	my $ran = IPC::Run::run([ 'sh', '-eu', '-c', $commands ], '<', \undef, '>', "$tmp/out", '2>', "$tmp/err");
	($out, $err) = map { slurp_file("$tmp/$_") } qw(out err);
	ok($ran, "$title: block " . ($n + 1)) or diag("$commands$out$err");
	return $out . $err;
}
sub quiet { my (@command) = @_; local %ENV = (%ENV, %env); return IPC::Run::run(\@command, '<', \undef, '>', "$tmp/out", '2>', "$tmp/err"); }

# Is what is committed on one there on the other?
my ($primary, $standby) = ($blue, $green);
sub check_whole
{
	my ($what) = @_;
	$_->_update_pid(-1) for $primary, $standby;
	$primary->safe_psql('postgres', "INSERT INTO t VALUES (0, \$what\$after: $what\$what\$)");
	my $rows = $primary->safe_psql('postgres', 'SELECT count(*), sum(i) FROM t');
	my $lsn = $primary->lsn('insert');
	wait_for("$what: the standby", sub { ((eval { $standby->psql('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'") })[1] // '') eq 't' });
	is($standby->safe_psql('postgres', 'SELECT count(*), sum(i) FROM t'), $rows, "$what: every row is there, on both");
	return;
}

quiet('systemctl', 'start', 'walcrypt-proxy') or die slurp_file("$tmp/err");
$green->init_from_proxy($proxy, 'green');
$green->start;
$blue->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('archive', true)");
my $receive = IPC::Run::start([ 'pg_receivewal', '-D', $env{ARCHIVE}, '-d', $proxy->connstr('archive'), '--slot=archive' ], '<', \undef, '>', "$tmp/receive", '2>&1');
END { my $status = $?; $receive->kill_kill if $receive; $? = $status; }
check_whole('at first');
run_block('When something is lost');
command_ok([ 'pg_basebackup', '-D', $env{BASE_BACKUP}, '-d', $proxy->connstr('green'), '--checkpoint=fast', '--no-sync' ], 'a base backup, for later');

# the proxy
{
	my $pid = proxy_pid();
	kill('KILL', $pid);
	wait_for('its end', sub { !kill(0, $pid) });
	unlink $socket;
	like(run_block('The proxy'), qr/^standbys/m, 'it runs again');
	check_whole('the proxy');
}

# the key server
{
	rename $proxy->{kek}, "$proxy->{kek}.away" or die;
	$green->stop;
	ok(!quiet('walcrypt-ctl', 'exec', '-D', $env{GREEN}, '--', 'pg_ctl', 'start', '-w', '-D', $env{GREEN}, '-l', "$tmp/refused.log"), 'without the key server it does not start');
	run_block('The key server, for a day');
	check_whole('without the key server');
	rename "$proxy->{kek}.away", $proxy->{kek} or die;
	run_block('The key server, for a day');
	$green->restart;
	check_whole('with it again');
	is(join(' ', glob("$env{AWAY}/*")), '', 'nothing is left of the time between');
}

# the keystore
{
	my $before = ctl('key', 'list', '--config', $proxy->conf, '--json');
	system_or_bail('sh', '-c', "rm -rf '$env{KEYSTORE}'/*");
	run_block('The keystore');
	is(join(' ', ctl('key', 'list', '--config', $proxy->conf, '--json') =~ /"relation[^:]*": "(\w+)"/g), join(' ', $before =~ /"relation[^:]*": "(\w+)"/g), 'the same keysets');
	check_whole('the keystore');
	system_or_bail('sh', '-c', "rm -rf '$env{KEYSTORE}'/*");
	run_block('The keystore');
	is(join(' ', ctl('key', 'list', '--config', $proxy->conf, '--json') =~ /"relation[^:]*": "(\w+)"/g), join(' ', $before =~ /"relation[^:]*": "(\w+)"/g), 'the same keysets, from the servers');
	check_whole('the keystore and its backup');
}

# a version of the cluster key
{
	unlink $proxy->{kek} or die;
	run_block('One version of the cluster key');
	$_->restart for $blue, $green;
	check_whole('the cluster key');
}

# a standby's disk
{
	$green->stop('immediate');
	run_block('A standby\'s disk');
	$green->append_conf('postgresql.auto.conf', 'port = ' . $green->port . "\n");
	check_whole('the standby\'s disk');
}

# without the layer
{
	$green->stop;
	my $plain = sub { return IPC::Run::run([ qw(pg_ctl start -w -t 60 -D), $env{GREEN}, '-l', $_[0] ], '<', \undef, '>', "$tmp/out", '2>', "$tmp/err"); };
	ok(!$plain->("$tmp/guarded.log"), 'a stock server does not start');
	like(slurp_file("$tmp/guarded.log"), qr/FATAL:.*walcrypt|FATAL:.*encrypted|storage layer/, '... and the guard says why');
	my $auto = slurp_file("$env{GREEN}/postgresql.auto.conf") =~ s/^shared_preload_libraries.*\n//mgr;
	open(my $f, '>', "$env{GREEN}/postgresql.auto.conf") or die;
	print $f $auto;
	close $f;
	ok(!$plain->("$tmp/unguarded.log"), 'nor without the guard');
	like(slurp_file("$tmp/unguarded.log"), qr/could not locate a valid checkpoint record|invalid/, '... it finds no checkpoint');
	run_block('A server that was started without the layer');
	check_whole('a server without the layer');
}

# full disks
{
	$blue->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('gone', true); SELECT pg_switch_wal()");
	$blue->safe_psql('postgres', "INSERT INTO t SELECT i, repeat('y', 100) FROM generate_series(1, 20000) i");
	like(run_block('A full disk'), qr/^ gone +\| f +\| \d+/m, 'the slot that holds WAL back is shown');
	is($blue->safe_psql('postgres', "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'gone'"), '0', '... and goes');

	$green->stop;
	my $log = "$env{GREEN}.log";
	my $offset = -s $log // 0;
	quiet('sh', '-c', "ulimit -f 8192; exec walcrypt-ctl exec -D '$env{GREEN}' -- pg_ctl start -w -D '$env{GREEN}' -l '$log'");
	$blue->safe_psql('postgres', "INSERT INTO t SELECT i, repeat('z', 100) FROM generate_series(1, 100000) i; SELECT pg_switch_wal()");
	wait_for('it to complain', sub { slurp_from($log, $offset) =~ /File too large|No space/ });
	IPC::Run::run([ 'pg_ctl', 'stop', '-m', 'immediate', '-D', $env{GREEN} ], '<', \undef, '>', "$tmp/out", '2>', "$tmp/err");
	run_block('A full disk');
	check_whole('the standby\'s full disk');

	my $keys = ctl('key', 'list', '--config', $proxy->conf);
	ok(!quiet('sh', '-c', 'ulimit -f 0; exec walcrypt-ctl key new-epoch green'), 'no room for the audit log: refused');
	run_block('A full disk');
	is(ctl('key', 'list', '--config', $proxy->conf), $keys, '... with nothing changed');
}

# the primary, in the middle of a rotation
for my $round (1, 2) {
	open(my $f, '>', "$tmp/kill") or die;
	close $f;
	ok(!quiet('walcrypt-ctl', 'rotate', '--to', 'green', '--timeout', 30), 'a rotation whose primary is killed stops midway');
	like(slurp_file("$tmp/err"), qr/--abort/, '... which it says') or diag(slurp_file("$tmp/out"), slurp_file("$tmp/err"));
	unlink "$tmp/kill";
	$green->_update_pid(-1);
	is($green->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', '... and promotes nothing');
	if ($round == 1) {
		run_block('The primary, in the middle of a rotation');
		check_whole('a rotation put back');
		next;
	}
	rename $env{BLUE}, "$tmp/lost" or die;
	ok(!quiet('walcrypt-ctl', 'rotate', '--abort'), 'its directory is gone: there is no way back') or diag(slurp_file("$tmp/out"));
	like(run_block('The primary, in the middle of a rotation'), qr/The rotation from "blue" to "green" that was stopped midway.*is given up/, 'the failover takes over');
	$blue->_update_pid(0);
	is($green->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', 'green is the primary');
	ok(quiet('walcrypt-ctl', 'build', 'blue', '-D', $env{BLUE}, '--checkpoint=fast'), 'blue is built anew') or diag(slurp_file("$tmp/err"));
	$blue->append_conf('postgresql.auto.conf', 'port = ' . $blue->port . "\n");
	ok(quiet('walcrypt-ctl', 'exec', '-D', $env{BLUE}, '--', 'pg_ctl', 'start', '-w', '-D', $env{BLUE}, '-l', "$env{BLUE}.log"), '... and started') or diag(slurp_file("$tmp/err"));
	($primary, $standby) = ($green, $blue);
	check_whole('the failover');
}

# three rotations later
{
	for my $to ($blue, $green, $blue) {
		($primary, $standby) = ($to, $primary);
		ok(quiet('walcrypt-ctl', 'rotate', '--to', $to->name, '--old', 'reencrypt', '--yes'), 'rotate to ' . $to->name) or diag(slurp_file("$tmp/out"), slurp_file("$tmp/err"));
		check_whole('a rotation');
	}
	my $rows = $primary->safe_psql('postgres', 'SELECT count(*), sum(i) FROM t');
	my $last = $primary->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn() - 1)');
	$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
	$primary->safe_psql('postgres', "INSERT INTO t VALUES (0, 'after the end')");
	wait_for('the archive', sub { -e "$env{ARCHIVE}/$last" });
	local $env{GREEN_PORT} = PostgreSQL::Test::Cluster::get_free_port();
	run_block('A backup that is older than three rotations');
	my $restored = '';
	wait_for('the restored backup', sub {
		IPC::Run::run([ 'psql', '-XAt', '-h', $blue->host, '-p', $env{GREEN_PORT}, '-d', 'postgres', '-c', "SELECT pg_is_in_recovery(), count(*), sum(i) FROM t WHERE text <> 'after the end'" ], '<', \undef, '>', \$restored, '2>', "$tmp/err");
		$restored =~ /^f/;
	});
	is($restored, "f|$rows\n", 'the old backup with the archive of three rotations has every row');
	quiet('pg_ctl', 'stop', '-m', 'fast', '-w', '-D', $env{BASE_BACKUP});
}
run_block('Afterwards');
for my $title (sort keys %blocks) {
	is($done{$title} // 0, scalar @{ $blocks{$title} }, "every block under \"$title\" was run");
}
$receive->kill_kill;
undef $receive;
$_->stop('immediate') for $blue, $green;
done_testing();
