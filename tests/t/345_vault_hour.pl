# A key server that is away for long: everything that runs goes on, by the proxy's login as well, whose token ends meanwhile; it is said
# once; nothing piles up in the proxy. As long as WALCRYPT_OUTAGE_SECONDS says: an hour is 3600. What starts without it: 343_vault_outage.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use Walcrypt;
use Walcrypt::Relay;
use Walcrypt::Vault;

my $seconds = $ENV{WALCRYPT_OUTAGE_SECONDS} || 10;
my $lease   = int($seconds / 3);
my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/hour';
mkdir $tmp, 0700;
my $bao = Walcrypt::Vault->new(name => 'hour', tls => 1);
my $role = $bao->transit_role("token_ttl=${lease}s", 'token_max_ttl=24h');
open(my $f, '>', "$tmp/secret_id") or die;
chmod 0600, "$tmp/secret_id";
print $f $bao->secret_id, "\n";
close $f;
my $relay = Walcrypt::Relay->new({ host => '127.0.0.1', port => $bao->port });
$relay->start;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "fsync = off\nmax_wal_size = 64MB\nwal_keep_size = 64MB\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t (i int)');
my $proxy = Walcrypt::Proxy->new(kek_uri => 'vault-transit://localhost:' . $relay->port . "/transit/walcrypt?login=approle&login_role=$role&login_file=$tmp/secret_id&ca_file=" . $bao->ca_file,
	kek_options => { timeout => '2s' }, nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
$ENV{WALCRYPT_CONFIG} = $proxy->conf;
my $blue = Walcrypt::Node->new('blue');
$blue->init_from_proxy($proxy, 'blue');
$blue->use_layer('site');
$blue->start;

my $rows = 0;
sub replicates
{
	$red->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 100)');
	$rows += 100;
	return $blue->poll_query_until('postgres', "SELECT count(*) = $rows FROM t");
}

# What it says, and how long it took
sub reload
{
	my $offset = $proxy->log_size;
	my $begin = time();
	kill('HUP', $proxy->pid);
	wait_for_file_line($proxy->logfile, qr/reloaded; sessions|the configuration stays as it was/, $offset);
	return ($proxy->log($offset), time() - $begin);
}

sub descriptors { opendir(my $d, '/proc/' . $proxy->pid . '/fd') or die; return scalar(grep { !/^\./ } readdir($d)); }
sub memory { return slurp_file('/proc/' . $proxy->pid . '/status') =~ /^VmRSS:\s+(\d+)/m ? $1 : die; }

ok(replicates(), 'replication runs');
like((reload())[0], qr/reloaded; sessions/, 'a reload while the server is there');
$relay->cut;
my ($fds, $size, $log, $begin) = (descriptors(), memory(), $proxy->log_size, time());
my ($rounds, $reloads, $slowest, $stays, $again, $streams) = (0) x 6;
while (time() - $begin < $seconds || $reloads < 2) {
	replicates() or last;
	$rounds++;
	if (time() - $begin > $reloads * $seconds / 3) {
		# a reload finds no key; a walreceiver that begins anew needs none; nor do checkpoints and other segments
		my ($said, $took) = reload();
		$reloads++;
		$stays++ if $said =~ /the configuration stays as it was: cluster key "site": could not reach "localhost:\d+"/;
		$slowest = $took if $took > $slowest;
		my $receiver = $blue->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');
		$again += kill('TERM', $receiver);
		$blue->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_wal_receiver WHERE pid = $receiver") or last;
		$red->safe_psql('postgres', 'SELECT pg_switch_wal(); CHECKPOINT');
		$blue->safe_psql('postgres', 'CHECKPOINT');
		$streams++ if replicates();
	}
	sleep($seconds < 60 ? 0.2 : 2);
}
note(sprintf('%d s: %d rounds, %d reloads, slowest %.1f s, memory %d to %d kB, descriptors %d to %d', time() - $begin, $rounds, $reloads, $slowest, $size, memory(), $fds, descriptors()));
cmp_ok(time() - $begin, '>=', $seconds, "replication runs for $seconds s without a key server");
cmp_ok($reloads, '>=', 2, 'the proxy was reloaded several times');
is($stays, $reloads, '... and stayed as it was, each time');
is($again, $reloads, 'the standby lost its walreceiver each time');
is($streams, $reloads, '... and had another one');
cmp_ok($slowest, '<', 15, 'no reload hung');
cmp_ok(descriptors(), '<=', $fds + 2, 'no descriptor is left over');
cmp_ok(memory(), '<', $size + 20 * 1024, 'the proxy has not grown');
is(() = $proxy->log($log) =~ /could not be fetched again now: could not reach/g, 1, 'that the login cannot be renewed was said, once');
is((ctl_output(qw(key verify blue)))[0], 4, 'walcrypt-ctl says that it is away');
is($red->safe_psql('postgres', 'SELECT count(*) FROM t'), $blue->safe_psql('postgres', 'SELECT count(*) FROM t'), 'the standby has all of it');

# it is back, and the token has long ended
$relay->start;
like((reload())[0], qr/reloaded; sessions/, 'a reload when it is back');
ok(wait_for('the end of the warning', sub { $proxy->log($log) =~ /cluster key "site" could be fetched again/ }), '... and the login is well again at once, which is said');
$blue->restart;
ok(replicates(), 'a standby that starts finds its keys');

done_testing();
