# Goal: a link that loses every packet without closing anything, on either side of the proxy, is noticed by the proxy itself, the
# slot becomes free, and streaming resumes by itself when the link is back: nothing is missing, nothing comes twice.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);
use Walcrypt;
use Walcrypt::Relay;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 512MB\nwal_sender_timeout = 3s\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t (i int, text text)');
my $me = (getpwuid($<))[0];
my $above = Walcrypt::Relay->new($red);
$above->start;
my $proxy = Walcrypt::Proxy->new(settings => { wal_receiver_timeout => '3s', connect_timeout => '2s' },
	nodes => { red => { conninfo => 'host=127.0.0.1 port=' . $above->port . " user=$me" }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
my $below = Walcrypt::Relay->new($proxy);
$below->start;

my $blue = Walcrypt::Node->new('blue');
$blue->init_from_proxy($proxy, 'blue', slot => 'blue_slot', create_slot => 1);
# the standby's own time-out must not be what ends the silence
$blue->append_conf('postgresql.auto.conf', "primary_conninfo = 'host=127.0.0.1 port=" . $below->port . " user=blue application_name=blue'\n"
	. "wal_receiver_timeout = 0\nwal_retrieve_retry_interval = 300ms\nwal_receiver_status_interval = 1s\n");
$blue->start;
my $archive_dir = PostgreSQL::Test::Utils::tempdir();
# it has no time-out at all
$red->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('archive', true)");
my $archive = IPC::Run::start([ 'pg_receivewal', '-D', $archive_dir, '-S', 'archive', '-s', '1', '-d', 'host=127.0.0.1 port=' . $below->port . ' user=blue application_name=archive' ], '<', \undef, '>&', \my $said);

sub active { return $red->safe_psql('postgres', "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots WHERE active") // ''; }
my $n = 0;
sub write_some { my ($rows) = @_; $n++; $red->safe_psql('postgres', "INSERT INTO t SELECT i, md5(i::text || '$n') FROM generate_series(1, $rows) i"); return; }
# Both are back, and have everything once.
my $count = 'SELECT count(*), sum(i), sum(hashtext(text)) FROM t';
sub same
{
	my ($what) = @_;
	wait_for('both to stream', sub { active() eq 'archive blue_slot' });
	write_some(10);
	$red->wait_for_catchup('archive', 'write');
	$red->wait_for_catchup('blue');
	is($blue->safe_psql('postgres', $count), $red->safe_psql('postgres', $count), "$what: the same rows");
	return;
}
sub sessions { my @s = grep { /\|START_REPLICATION\|/ } split(/\n/, $proxy->console('SHOW SESSIONS')); return scalar @s; }
write_some(1000);
same('at first');

# below the proxy: idle; under load, where what the proxy has sent piles up; with a relay that comes back, and one that does not
for my $case ([ 'idle below', 0, 'thaw' ], [ 'under load below', 1, 'thaw' ], [ 'under load below, and gone', 1, 'cut' ]) {
	my ($what, $load, $how) = @$case;
	my ($offset, $pid) = ($proxy->log_size, $proxy->pid);
	$below->freeze;
	my $start = time();
	write_some(200000) if $load;
	wait_for("$what: no session streams", sub { sessions() == 0 });
	cmp_ok(time() - $start, '<', 90, "$what: the proxy ends both sessions by itself");
	wait_for("$what: the slots", sub { active() eq '' });
	ok(1, "$what: the slots are free");
	like($proxy->log($offset), qr/the client has been silent for 3 s|lost the connection to upstream/, "$what: the log says why");
	like($proxy->log($offset), qr/the client has been silent for 3 s/, "$what: the proxy knows it by itself, where the upstream cannot tell it") if $load;
	if ($how eq 'cut') { $below->cut; $below->start; }
	else { $below->thaw; }
	write_some(1000);
	same($what);
}

# above it
for my $case ([ 'idle above', 0, 'thaw' ], [ 'under load above', 1, 'thaw' ], [ 'under load above, and gone', 1, 'cut' ]) {
	my ($what, $load, $how) = @$case;
	my $offset = $proxy->log_size;
	my $start;
	my $writer = IPC::Run::start([ 'pgbench', '-n', '-T', 600, '-f', do { my $f = PostgreSQL::Test::Utils::tempdir() . '/s.sql'; append_to_file($f, "INSERT INTO t SELECT i, 'load' FROM generate_series(1, 500) i;\n"); $f },
		'-h', $red->host, '-p', $red->port, 'postgres' ], '<', \undef, '>&', \my $out) if $load;
	wait_for('some load', sub { $red->safe_psql('postgres', "SELECT count(*) > 2000 FROM t WHERE text = 'load'") eq 't' }) if $load;
	$above->freeze;
	$start = time();
	wait_for("$what: the log", sub { my @all = $proxy->log($offset) =~ /upstream "red" has been silent for 3 s/g; @all >= 2 });
	cmp_ok(time() - $start, '<', 90, "$what: the proxy ends both sessions by itself");
	wait_for_file_line($proxy->logfile, qr/could not connect to upstream "red": no answer within 2000 ms/, $offset);
	ok(1, "$what: while it lasts, nobody can connect, and is told so");
	if ($load) {
		$writer->signal('TERM');
		$writer->finish;
		wait_for("$what: the load to end", sub { $red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'") eq '0' });
	}
	wait_for("$what: the slots", sub { active() eq '' });
	ok(1, "$what: the slots are free");
	if ($how eq 'cut') { $above->cut; $above->start; }
	else { $above->thaw; }
	write_some(1000);
	same($what);
}
is(() = $proxy->log =~ /begins a new incarnation/g, 1, 'one incarnation: what came again was the same bytes');

# an idle stream on a link that works is left alone: it is asked, and answers. On a machine that stands still for seconds somebody may be silent: then again
$red->safe_psql('postgres', 'ALTER SYSTEM SET wal_sender_timeout = 0');
$red->reload;
sub streams { return $red->safe_psql('postgres', "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_replication"); }
my ($offset, $pids, $then);
for (1 .. 4) {
	($offset, $pids) = ($proxy->log_size, streams());
	sleep 8;
	last if ($then = streams()) eq $pids && $proxy->log($offset) !~ /silent/;
	same('idle, once more');
}
is($then, $pids, 'idle streams go on, where the upstream itself sends no keepalives too');
unlike($proxy->log($offset), qr/silent/, 'nobody is said to be silent');

# a stream that is far behind is read in another way: the client takes nothing until the link is down, so that it still is behind then
my $from = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
$red->safe_psql('postgres', "SELECT count(pg_logical_emit_message(false, 'x', repeat('z', 1000000))) FROM generate_series(1, 100)");
my $late = Walcrypt::Wire->connect($proxy);
$late->startup(user => 'blue', replication => 'true', application_name => 'late');
$late->until('Z');
$late->send('Q', "START_REPLICATION PHYSICAL $from TIMELINE 1\0");
$late->until('W');
sub sent { return (split(/\|/, (grep { /\|late\|/ } split(/\n/, $proxy->console('SHOW SESSIONS')))[0] // ''))[14] // 0; }
wait_for('nothing to move any more', sub { my $before = sent(); select(undef, undef, undef, 0.5); $before > 0 && sent() == $before });
$offset = $proxy->log_size;
$above->freeze;
wait_for('the log', sub { $late->more(0.1); $late->{in} = substr($late->{in}, -64); $proxy->log($offset) =~ /session \d+ \(blue\)[^\n]*upstream "red" has been silent for 3 s/ && sent() == 0 });
ok(1, 'a stream that is far behind ends, too, when its upstream falls silent');
$above->thaw;
same('far behind');

# the archive is whole: every segment from its first to the present one is there, once
$archive->signal('TERM');
$archive->finish;
my @segments = sort map { m{/([0-9A-F]{24})} } glob("$archive_dir/*");
my ($first, $last) = map { hex(substr($_, 16)) } @segments[ 0, -1 ];
is(scalar(@segments), $last - $first + 1, 'the archive has every segment');
$blue->stop;
my ($rc, $out, $err) = ctl_output('verify', '-D', $blue->data_dir, '--kek', $proxy->kek_uri);
is($rc, 0, 'walcrypt-ctl verify of the standby is clean') or diag($out, $err);
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
