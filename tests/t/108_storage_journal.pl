# The page journal (W4) at a power loss in each of its steps: where a run continues a page after a clean stop, after a crash with stale pages
# beyond the recovered end, in a walreceiver that gets a page again under another generation, and while the journal is replayed. At each step the
# process stops for good, with what is not yet synced lost or torn by chance, and the server is killed (tests/preload/powerloss.c). After
# each: nothing acknowledged is lost, PostgreSQL's own checks find nothing, and at the end no keystream was used twice.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../accounting";
use Accounting;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $kek = kek_file("$dir/kek");
my $uri = "file:$kek";
my ($LOST, $TORN) = (0, 1);
my $steps = 8;       # make, write, fsync, fsync of the directory; write, fsync; remove, fsync of the directory
my $replayed = 4;    # write, fsync; remove, fsync of the directory
seeded_random();
system_or_bail('gcc', '-shared', '-fPIC', '-O1', '-D_GNU_SOURCE', '-o', "$dir/powerloss.so", "$FindBin::RealBin/../preload/powerloss.c", '-ldl');
mkdir "$dir/tapes";

# What the preloaded library reads and writes: step, mode, seed, steps seen, frozen, name of the step.
sub order
{
	my ($node, $step, $mode) = @_;
	my $file = "$dir/order." . $node->name;
	open(my $f, -e $file ? '+<:raw' : '+>:raw', $file) or die "$file: $!";
	syswrite($f, pack('L5Z64', $step, $mode, int(rand(1 << 30)), 0, 0, ''));
	close $f;
	return;
}

sub state_of { my ($node) = @_; return unpack('x12L2Z64', slurp_from("$dir/order." . $node->name)); }

# What follows runs with a power loss in front of the layer.
sub with_powerloss
{
	my ($node, $code) = @_;
	local $ENV{POWERLOSS} = "$dir/order." . $node->name;
	local $ENV{POWERLOSS_TAPE} = "$dir/tapes/disk-" . $node->name . '.0001.tape';
	local $Walcrypt::layer = "$dir/powerloss.so:$Walcrypt::layer";
	return $code->();
}

sub start
{
	my ($node) = @_;
	order($node, 0, 0);
	return with_powerloss($node, sub { $node->start });
}

sub kill_all
{
	my ($node, $pid) = @_;
	kill('STOP', $pid);
	kill('KILL', $pid, Accounting::Server::children($pid));
	my $data = $node->data_dir;
	wait_for('the death of ' . $node->name, sub {
		waitpid($pid, POSIX::WNOHANG());
		return !grep { (readlink($_) // '') eq $data } glob('/proc/[0-9]*/cwd');
	});
	unlink "$data/postmaster.pid", $node->host . '/.s.PGSQL.' . $node->port . '.lock';
	$node->_update_pid(0);
	return;
}

sub answers
{
	my ($node) = @_;
	IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SELECT 1' ], '<', \undef, '>', \my $out, '2>', \my $err);
	return $? == 0;
}

my (%crashes, %at, @bad);

# A power loss at a step while the server starts.
sub crash_starting
{
	my ($what, $node, $step, $mode) = @_;
	order($node, $step, $mode);
	my $pid = with_powerloss($node, sub { local %ENV = $node->_get_env; return in_background($node->logfile, 'postgres', '-D', $node->data_dir); });
	# recovery, and with it what moves the last page, is over before anybody can connect
	my $at = wait_for("step $step", sub {
		my ($count, $frozen, $name) = state_of($node);
		return $name if $frozen;
		return waitpid($pid, POSIX::WNOHANG()) == $pid || answers($node) ? 'nowhere' : 0;
	});
	($at) = (state_of($node))[2] || 'nowhere' if $at eq 'nowhere';
	push @bad, "$what, step $step: not reached" if $at eq 'nowhere';
	$at{$at}++;
	$crashes{$what}++;
	kill_all($node, $pid);
	return;
}

my $primary = Walcrypt::Node->new('primary');
my $acknowledged = 0;

sub insert
{
	my ($rows) = @_;
	$primary->safe_psql('postgres', "INSERT INTO t SELECT i, md5(i::text) FROM generate_series($acknowledged + 1, $acknowledged + $rows) i");
	$acknowledged += $rows;
	return;
}

# It starts again, has what was acknowledged and nothing else, goes on, and is whole. Stopped at the end.
sub survives
{
	my ($what) = @_;
	start($primary);
	my $have = $primary->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE body = md5(id::text)), coalesce(max(id), 0) FROM t');
	push @bad, "$what: rows $have, acknowledged $acknowledged" if $have ne join('|', ($acknowledged) x 3);
	push @bad, "$what: a journal is left" if -e $primary->data_dir . '/pg_wal/pgsql_tmp_walcrypt.journal';
	my $old = pages_ahead($primary);
	push @bad, "$what: $old pages of an earlier run ahead of the end of WAL" if $old;
	insert(5);
	my $findings = $primary->integrity_findings;
	push @bad, "$what: $findings" if $findings ne '';
	return;
}

# Pages in pg_wal that stand at their own place beyond the end of WAL, read without our code.
sub pages_ahead
{
	my ($node) = @_;
	my ($hi, $lo) = map { hex } split m{/}, $node->lsn('insert');
	my $end = ($hi << 32) + $lo;
	my $count = 0;
	for my $path (glob($node->data_dir . '/pg_wal/*')) {
		my ($log, $seg) = $path =~ m{/[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})$} or next;
		open(my $f, '<:raw', $path) or next;
		my $at = (hex($log) << 32) + hex($seg) * (-s $path);
		for (; read($f, my $page, 8192); $at += 8192) {
			my ($magic, undef, undef, $address) = unpack('S<S<L<Q<', $page);
			$count++ if $magic >> 8 == 0xD1 && $address == $at && $at >= $end;
		}
	}
	return $count;
}

$primary->init_encrypted($uri, allows_streaming => 1, extra => [ '-k', '--wal-segsize=1' ]);
my $conf = "fsync = on\nsynchronous_commit = on\nautovacuum = off\nwal_keep_size = '64MB'\nmax_wal_size = '32MB'\ncheckpoint_timeout = 1h\nwal_writer_delay = 10ms\nwal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 100ms\nlog_min_messages = warning\n";
$primary->append_conf('postgresql.conf', $conf);
start($primary);
$primary->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY, body text); CREATE TABLE noise (body text)');
insert(50);
$primary->backup('base');
$primary->stop;

# a clean stop: the run goes on in the page where the last one ended
my @ways = map { my $step = $_; map { [ $step, $_ ] } $LOST, $LOST, $TORN } 1 .. $steps;
for my $way (@ways) {
	crash_starting('clean stop', $primary, @$way);
	survives("clean stop, step $way->[0], mode $way->[1]");
}

# a crash: pages of a transaction that was never acknowledged are on the disk, but half of the first of them is not
for my $way (@ways) {
	start($primary);
	insert(3);
	my $lsn = $primary->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	my $session = $primary->background_psql('postgres');
	$session->query_safe("BEGIN; INSERT INTO noise SELECT repeat(md5(i::text), 20) FROM generate_series(1, 200) i");
	$primary->poll_query_until('postgres', "SELECT pg_current_wal_flush_lsn() > '$lsn'::pg_lsn + 100000") or die;
	my $segment = $primary->safe_psql('postgres', "SELECT pg_walfile_name('$lsn'::pg_lsn + 8192)");
	kill_all($primary, $primary->{_pid});
	eval { $session->quit };
	my ($low) = map { hex } $lsn =~ m{/(.*)};
	my $lost = (($low + 8192 & ~8191) & (1 << 20) - 1) + 4096;
	open(my $f, '+<:raw', $primary->data_dir . "/pg_wal/$segment") or die "$segment: $!";
	seek($f, $lost, 0);
	print $f "\0" x 4096;
	close $f;
	crash_starting('crash', $primary, @$way);
	survives("crash, step $way->[0], mode $way->[1]");
}

# the replay of a journal
for my $way (map { my $step = $_; map { [ $step, $_ ] } $LOST, $TORN } 1 .. $replayed) {
	crash_starting('before a replay', $primary, 5, $TORN);
	crash_starting('replay', $primary, @$way);
	survives("replay, step $way->[0], mode $way->[1]");
}

# a walreceiver: the primary is restarted in the middle of a page, which then arrives again under another generation
my $standby = Walcrypt::Node->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->use_layer($uri);
$standby->append_conf('postgresql.conf', $conf);
start($primary);
start($standby);
my $sum = 'SELECT count(*), sum(hashtext(body)) FROM t';
for my $way (map { my $step = $_; map { [ $step, $_ ] } $LOST, $TORN } 1 .. $steps) {
	insert(1);
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	order($standby, @$way);
	$primary->stop;
	start($primary);
	insert(1);
	my $at = wait_for("step $way->[0] of the walreceiver", sub { my (undef, $frozen, $name) = state_of($standby); return $frozen && $name; });
	$at{$at}++;
	$crashes{walreceiver}++;
	kill_all($standby, $standby->{_pid});
	start($standby);
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	my ($one, $other) = map { $_->safe_psql('postgres', $sum) } $primary, $standby;
	push @bad, "walreceiver, step $way->[0]: $other is not $one" if $one ne $other;
	my $findings = $standby->integrity_findings(primary => $primary);
	push @bad, "walreceiver, step $way->[0]: $findings" if $findings ne '';
	start($standby);
}
$_->stop for $standby, $primary;

note(join(', ', map { "$_: $at{$_}" } sort keys %at));
is($crashes{'clean stop'}, 24, 'power losses after a clean stop');
is($crashes{crash}, 24, 'after a crash');
is($crashes{replay}, 8, 'in the replay of a journal');
is($crashes{walreceiver}, 16, 'in a walreceiver');
is(scalar(keys %at), 8, 'each step of the journal was the last one once');
is(join("\n", @bad), '', 'nothing acknowledged was lost, every page is whole');
my ($rc, $report) = accountant('--keys', $primary->data_dir . '/pg_cryptokeys', '--kek', $kek, "$dir/tapes");
is($rc, 0, 'the accountant has no objection') or diag(explain($report->{shown}));
is($report->{violations}, 0, 'no keystream was used twice');
cmp_ok($report->{generations}, '>', 100, "$report->{generations} generations");
for my $node ($primary, $standby) {
	my ($verified, $out, $err) = ctl_output('verify', '-D', $node->data_dir, '--kek', $uri);
	is($verified, 0, 'verify finds ' . $node->name . ' whole') or diag($out . $err);
}
done_testing();
