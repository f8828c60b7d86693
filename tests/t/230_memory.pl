# Goal: the proxy's memory stays bounded, whatever the size of the database and however slow a client is; a client that
# vanishes frees its upstream connection at once.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time sleep);
use Walcrypt;
use Walcrypt::Wire;

my $limit_kib = 64 * 1024;
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "fsync = off\nmax_wal_size = 2GB\nwal_keep_size = 512MB\nwal_sender_timeout = 0\nlisten_addresses = '127.0.0.1'\n");
append_to_file($red->data_dir . '/pg_hba.conf', "host all,replication all 127.0.0.1/32 trust\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 28) AS text FROM generate_series(1, 400000) i; CHECKPOINT");
my $size = $red->safe_psql('postgres', 'SELECT pg_database_size(current_database())') / (1 << 20);
cmp_ok($size, '>', 350, "a database of $size MB");

my $proxy = Walcrypt::Proxy->new(settings => { log_level => 'debug' }, nodes => { red => { conninfo => 'host=127.0.0.1 port=' . $red->port . ' user=' . getpwuid($<) }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
my $highest = 0;
sub rss { my $kib = rss_kib($proxy->pid); $highest = $kib if $kib > $highest; return $kib; }
my $idle = rss();

sub connect_blue
{
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'blue', replication => 'true', application_name => $_[0]);
	$c->until('Z');
	return $c;
}

# a base backup that nobody reads
my $c = connect_blue('lazy');
$c->send('Q', "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', WAIT 'false', MANIFEST 'yes')\0");
$c->until('H');
rss(), sleep 0.1 for 1 .. 30;
like($proxy->console('SHOW SESSIONS'), qr/\|lazy\|local\|backup\|BASE_BACKUP\|/, 'it is under way');
cmp_ok(rss(), '<', $limit_kib, "a backup that is not read: $highest KiB");
# then slowly, then fast
for (1 .. 50) { $c->more; $c->{in} = ''; rss(); sleep 0.02; }
my ($bytes, $tail) = (0, '');
while ($c->more) { $bytes += length $c->{in}; $tail = substr($tail . $c->{in}, -64); $c->{in} = ''; rss() if ($bytes >> 20) % 16 == 0; last if $tail =~ /Z\x00\x00\x00\x05I$/; }
cmp_ok($bytes, '>', 350 << 20, 'it arrives whole in the end');
cmp_ok($highest, '<', $limit_kib, "resident memory during the backup: $highest KiB, idle $idle KiB");
close $c->{socket};

# eight backups at once by the stock client, from an upstream that is reached by TCP, where they are read in large pieces
my @runs = map { IPC::Run::start([ 'pg_basebackup', '-d', $proxy->connstr('blue'), '--checkpoint=fast', '--no-sync', '-X', 'none', '-F', 't', '-D', '-', '--no-manifest' ], '>', '/dev/null', '2>', \my $e) } 1 .. 8;
my $end = time() + 3;
while (time() < $end) { rss(); sleep 0.02; }
ok($_->finish, 'a backup beside others') for @runs;
cmp_ok($highest, '<', $limit_kib, "resident memory with eight backups: $highest KiB");

# a stream that nobody reads while the primary writes 200 MB
$c = connect_blue('stuck');
my $lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
$c->send('Q', "START_REPLICATION PHYSICAL $lsn TIMELINE 1\0");
$c->until('W');
$red->safe_psql('postgres', "SELECT count(pg_logical_emit_message(false, 'x', repeat('z', 1000000))) FROM generate_series(1, 200)");
rss(), sleep 0.1 for 1 .. 20;
cmp_ok($highest, '<', $limit_kib, "resident memory with a stream that is not read: $highest KiB");
# who does read is not held up by it
my $endpos = $red->lsn('flush');
$red->safe_psql('postgres', "SELECT pg_logical_emit_message(true, 'x', 'behind it')");    # without which it does not end
command_ok([ 'pg_receivewal', '-d', $proxy->connstr('blue'), '-D', PostgreSQL::Test::Utils::tempdir(), '--endpos', $endpos, '--no-loop' ], 'another client gets its WAL');

# who is behind is read in large pieces, which nobody who has caught up waits for: then the proxy sleeps
my $behind = connect_blue('behind');
my $log = $proxy->log_size;
$behind->send('Q', "START_REPLICATION PHYSICAL $lsn TIMELINE 1\0");
for (1 .. 20000) { last if $proxy->log($log) =~ /the stream is 0 MiB behind/; $behind->more(1); $behind->{in} = ''; rss() if $_ % 100 == 0; }
like($proxy->log($log), qr/the stream is 1[5-9]\d MiB behind.*the stream is 0 MiB behind/s, 'a stream of 200 MB is behind, and catches up');
cmp_ok($highest, '<', $limit_kib, "resident memory meanwhile: $highest KiB");
my $worker = "/proc/" . $proxy->pid . "/task/*/status";
sub switches { my $n = 0; $n += (slurp_file($_) =~ /^voluntary_ctxt_switches:\s+(\d+)/m)[0] for glob($worker); return $n; }
my ($switched, $from) = (switches(), time());
sleep 1;
cmp_ok((switches() - $switched) / (time() - $from), '<', 50, 'and the proxy does not look every 10 ms any more');
close $behind->{socket};

# vanishing
is($red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'stuck'"), '1', 'the stuck one is there');
close $c->{socket};
my $since = time();
wait_for('its walsender to go', sub { $red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'stuck'") == 0 });
cmp_ok(time() - $since, '<', 30, 'a client that vanishes takes its walsender with it');    # no time-out of a minute does
$c = connect_blue('gone');
$c->send('Q', "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', WAIT 'false', MAX_RATE 64)\0");
$c->until('H');
close $c->{socket};
wait_for('the backup to end', sub { $red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'gone'") == 0 });
ok(1, 'in a base backup too');

# many short sessions leave nothing behind
my $before = rss();
for my $i (1 .. 300) { my $w = connect_blue('many'); $w->send('Q', "IDENTIFY_SYSTEM\0"); $w->until('Z'); $w->send('X', ''); close $w->{socket}; }
cmp_ok(rss() - $before, '<', 4096, '300 sessions leave no memory behind: ' . (rss() - $before) . ' KiB');
wait_for('the sessions to end', sub { $proxy->console('SHOW STATUS') =~ /^sessions\|1$/m });
ok(1, 'nor sessions');
my $fds = () = glob('/proc/' . $proxy->pid . '/fd/*');
cmp_ok($fds, '<', 40, "nor descriptors: $fds");
note("highest resident memory: $highest KiB; idle: $idle KiB");
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
