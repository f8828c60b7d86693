# Goal: the upstream is the primary on the highest timeline ever seen: sessions follow a promotion among clear servers, in the
# middle of a segment too, and an old primary that comes back is refused by name, by a restarted proxy as well.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use Test::More;
use Walcrypt;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 256MB\nwal_retrieve_retry_interval = 300ms\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i');
$red->backup('b');
my $second = Walcrypt::Node->new('second');
$second->init_from_backup($red, 'b', has_streaming => 1);
$second->start;
my $third = Walcrypt::Node->new('third');
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, second => { conninfo => $second->connstr_for_proxy },
	third => { conninfo => $third->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
my $blue = Walcrypt::Node->new('blue');
$blue->init_from_proxy($proxy, 'blue');
$blue->start;

sub ask
{
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'psql', '-XAt', '-d', $proxy->connstr('blue') . ' dbname=x replication=true', '-c', 'IDENTIFY_SYSTEM' ], '<', \undef, '>', \$out, '2>', \$err);
	return ($out, $err);
}
my ($out, $err) = ask();
like($out, qr/^\d+\|1\|/, 'of a primary, its standby and a server that is down, the primary is taken');
$red->wait_for_catchup('second');
$red->wait_for_catchup('blue');

# promotion in the middle of a segment; the old primary has gone
$red->stop('fast');
$second->promote;
$second->safe_psql('postgres', 'INSERT INTO t SELECT i FROM generate_series(1, 500) i');
wait_for('blue to follow', sub { ($blue->psql('postgres', 'SELECT count(*) FROM t'))[1] eq '1500' });
is($blue->safe_psql('postgres', 'SELECT received_tli FROM pg_stat_wal_receiver'), '2', 'the encrypted standby follows to timeline 2');
ok(-e $blue->data_dir . '/pg_wal/00000002.history', 'it has its history');
like(slurp_file($proxy->logfile), qr/timeline 2 of cluster \d+ begins a new incarnation/, 'timeline 2 has an incarnation of its own');
my %what = encrypted_wal_files($blue->data_dir . '/pg_wal');
is_deeply([ grep { $what{$_} !~ /encrypted|empty/ } keys %what ], [], 'all its WAL is encrypted');
like(slurp_file($proxy->keystore . '/timelines'), qr/^\d+ 2$/m, 'the timeline is kept');

# the old primary comes back by mistake
$red->start;
($out, $err) = ask();
like($out, qr/^\d+\|2\|/, 'the old primary is not taken while the new one is there');
$second->stop('fast');
($out, $err) = ask();
like($err, qr/node "red" is a primary on timeline 1, but timeline 2 has been seen.*HINT:.*old primary/s, 'nor when it is alone');
$proxy->restart;
($out, $err) = ask();
like($err, qr/node "red" is a primary on timeline 1, but timeline 2 has been seen/, 'nor by a restarted proxy');
$red->stop('fast');
($out, $err) = ask();
like($err, qr/there is no upstream for node "blue" now.*"red".*"second".*"third"/s, 'with all of them down, each one\'s fault is said');

# a twin: two primaries on one timeline
PostgreSQL::Test::RecursiveCopy::copypath($second->data_dir, $third->data_dir);
chmod 0700, $third->data_dir;
$third->append_conf('postgresql.conf', 'port = ' . $third->port . "\n");
$_->start for $second, $third;
($out, $err) = ask();
like($err, qr/nodes "second" and "third" are both primaries.*timeline 2/s, 'two primaries on one timeline are refused');
$third->stop('fast');
$second->safe_psql('postgres', 'INSERT INTO t SELECT i FROM generate_series(1, 250) i');
wait_for('blue to go on', sub { ($blue->psql('postgres', 'SELECT count(*) FROM t'))[1] eq '1750' });
ok(1, 'the standby goes on by itself');

# an archive that crosses the switch
$proxy->stop;
append_to_file($proxy->keystore . '/timelines', "nonsense\n");
is($proxy->start(fail_ok => 1), 0, 'a damaged file of timelines ends the start');
like(slurp_file($proxy->logfile), qr/FATAL:  .*timelines:3: expected a system identifier and a timeline/, 'and says where');
done_testing();
