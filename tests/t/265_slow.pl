# Goal: slow readers and slow writers on either side are waited for, and the proxy's memory stays flat meanwhile; what was held up is
# whole in the end. Each phase lasts some seconds here; WALCRYPT_SLOW_SECONDS=180 makes it minutes.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time sleep);
use Walcrypt;
use Walcrypt::Wire;

my $seconds = $ENV{WALCRYPT_SLOW_SECONDS} // 4;
my $limit_kib = 64 * 1024;
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "fsync = off\nwal_keep_size = 512MB\nwal_sender_timeout = 0\nmax_wal_senders = 40\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 28) AS text FROM generate_series(1, 60000) i; CHECKPOINT");
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } }, settings => { wal_receiver_timeout => 0 });
$proxy->key_init('blue');
$proxy->start;

my ($highest, $idle) = (0, 0);
sub rss { my $kib = rss_kib($proxy->pid); $highest = $kib if $kib > $highest; return $kib; }
$idle = rss();
# Watch the memory for a phase; the code is what goes on meanwhile.
sub meanwhile { my ($code) = @_; my $end = time() + $seconds; while (time() < $end) { $code->() if $code; rss(); sleep 0.05; } return; }
sub flat { my ($what) = @_; return cmp_ok($highest, '<', $limit_kib, "$what: at most $highest KiB, idle $idle KiB"); }
sub begin
{
	my ($name, $command, $stop) = @_;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'blue', replication => 'true', application_name => $name);
	$c->until('Z');
	if (defined $command) { $c->send('Q', "$command\0"); $c->until($stop); }
	return $c;
}
sub walsender { my ($name) = @_; return $red->safe_psql('postgres', "SELECT pid FROM pg_stat_replication WHERE application_name = '$name'"); }
sub lsn { return $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()'); }

# 1 a base backup that is read a little at a time, then to its end
my $c = begin('reader', "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', WAIT 'false', MANIFEST 'yes')", 'H');
my $bytes = 0;
meanwhile(sub { $c->more(1); $bytes += length $c->{in}; $c->{in} = substr($c->{in}, -64); });
flat('a backup that is read slowly');
while ($c->{in} !~ /Z\x00\x00\x00\x05I$/ && $c->more(20)) { $bytes += length($c->{in}); $c->{in} = substr($c->{in}, -64); }
like($c->{in}, qr/C\x00\x00\x00\x10BASE_BACKUP\x00Z\x00\x00\x00\x05I$/, 'it comes to its end');
cmp_ok($bytes, '>', 50 << 20, "all of it: $bytes bytes");

# 2 an upstream that stops in the middle of a base backup, for a while
my $dir = PostgreSQL::Test::Utils::tempdir();
my $run = IPC::Run::start([ 'pg_basebackup', '-D', "$dir/b", '-d', $proxy->connstr('blue') . ' application_name=stopped', '--checkpoint=fast', '--no-sync', '-X', 'none', '--max-rate=32M' ], '<', \undef, '>&', \my $said);
my $pid = wait_for('its walsender', sub { $proxy->console('SHOW SESSIONS') =~ /\|backup\|BASE_BACKUP\|/ && walsender('stopped') });
kill('STOP', $pid);
meanwhile();
ok(kill(0, $pid), 'the upstream is waited for');
kill('CONT', $pid);
ok($run->finish, 'the backup is finished') or diag($said);
command_ok([ 'pg_verifybackup', '-n', "$dir/b" ], 'and whole');

# 3 streams that nobody reads, beside one that is read
my $lsn = lsn();
my @stuck = map { begin("stuck$_", "START_REPLICATION PHYSICAL $lsn TIMELINE 1", 'W') } 1 .. 20;
meanwhile(sub { $red->safe_psql('postgres', "SELECT count(pg_logical_emit_message(false, 'x', repeat('z', 1000000))) FROM generate_series(1, 2)"); });
flat('20 streams that are not read');
my $endpos = lsn();
$red->safe_psql('postgres', "SELECT pg_logical_emit_message(true, 'x', 'behind it')");    # without which it does not end
command_ok([ 'pg_receivewal', '-d', $proxy->connstr('blue'), '-D', PostgreSQL::Test::Utils::tempdir(), '--endpos', $endpos, '--no-loop' ], 'another client gets its WAL');
close $_->{socket} for @stuck;

# 4 a client that says more than the upstream takes: it is not read
$lsn = lsn();
$c = begin('talker', "START_REPLICATION PHYSICAL $lsn TIMELINE 1", 'W');
$pid = walsender('talker');
kill('STOP', $pid);
my ($high, $low) = map { hex } split('/', $lsn);
my $status = 'd' . pack('N', 4 + 34) . 'r' . pack('NNNNNNNNC', $high, $low, $high, $low, 0, 0, 0, 0, 0);
my ($sent, $blocked) = (0, 0);
$c->{socket}->blocking(0);
meanwhile(sub { for (1 .. 2000) { my $n = syswrite($c->{socket}, substr($status x 1000, $sent % length $status)); if (!defined $n) { $blocked++; last; } $sent += $n; } });
cmp_ok($blocked, '>', 0, "a client that says too much waits, after $sent bytes");
flat('a client that says more than the upstream takes');
kill('CONT', $pid);
# finish the message that was cut, then see that it is heard
$c->{socket}->blocking(1);
$c->raw(substr($status, $sent % length $status)) if $sent % length $status;
wait_for('the upstream to hear it', sub { $red->safe_psql('postgres', "SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'talker'") eq $lsn });
pass('it is heard when the upstream goes on');
close $c->{socket};

# 5 a client that asks and asks, and takes no answers: then it takes them all
$c = begin('asker');
my $query = 'Q' . pack('N', 4 + 16) . "IDENTIFY_SYSTEM\0";
my $asked = 0;
$c->{socket}->blocking(0);
meanwhile(sub { for (1 .. 200) { my $n = syswrite($c->{socket}, substr($query x 500, $asked % length $query)); last if !defined $n; $asked += $n; } });
flat('a client that asks and takes no answers');
$c->{socket}->blocking(1);
my $whole = int(($asked + length($query) - 1) / length $query);
# a writer of its own, so that neither waits for the other
my $writer = fork() // die;
if ($writer == 0) { $c->raw(substr($query, $asked % length $query)) if $asked % length $query; POSIX::_exit(0); }
my $answers = 0;
while ($answers < $whole) { my ($type) = $c->message or last; $answers++ if $type eq 'Z'; }
waitpid($writer, 0);
is($answers, $whole, "every one of $whole questions has its answer");
close $c->{socket};
# the same on the console, which is answered by the proxy itself
$c = Walcrypt::Wire->connect($proxy);
$c->startup(user => 'monitor', database => 'walcrypt');
$c->until('Z');
$query = 'Q' . pack('N', 4 + 12) . "SHOW CONFIG\0";
$asked = 0;
$c->{socket}->blocking(0);
meanwhile(sub { for (1 .. 200) { my $n = syswrite($c->{socket}, substr($query x 500, $asked % length $query)); last if !defined $n; $asked += $n; } });
flat('a client of the console that takes no answers');
like($proxy->console('SHOW SESSIONS'), qr/\|monitor\|[^|]*\|local\|ready\|/, '... and it is waited for');
close $c->{socket};
wait_for('the sessions to end', sub { $proxy->console('SHOW STATUS') =~ /^sessions\|1$/m });
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
