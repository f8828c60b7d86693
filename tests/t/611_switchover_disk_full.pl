# Goal: the standby's disk fills up, a real one (a small tmpfs in a mount namespace of this test's own, with its pg_wal): before the old primary is
# stopped, the switchover waits, gives up, and the primary was never away; at the promotion, it stops midway and goes on when there is room.
use strict;
use warnings;
use File::Temp ();

# Before anything else is loaded, which would redirect our output: this test again, in a mount namespace; mounted as the namespace's root, run
# as who we are, because PostgreSQL refuses root.
BEGIN
{
	if (!defined $ENV{WALCRYPT_SMALL_DISK}) {
		if (system('unshare -rm true 2>/dev/null') != 0) { print "1..0 # SKIP this machine gives users no mount namespaces\n"; exit 0; }
		my $disk = $ENV{WALCRYPT_SMALL_DISK} = File::Temp::tempdir('wcsXXXXXX', TMPDIR => 1);
		exec('unshare', '-rm', 'sh', '-c', 'mount -t tmpfs -o size=128m,mode=700 none "$1" && shift && exec unshare -U "$@"', 'sh', $disk, "--map-user=$<", '--map-group=' . ($( + 0), $^X, $0)
			or die "unshare: $!";
	}
}
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Stopped;
use Walcrypt::Strace;
use Walcrypt::Writers;

needs_strace();
my $small = $ENV{WALCRYPT_SMALL_DISK};

my $red = Walcrypt::Node->new('red');
my $blue = Walcrypt::Node->new('blue');
$red->init(allows_streaming => 1, extra => [ '-k', '--wal-segsize=1' ]);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nmin_wal_size = 4MB\nmax_wal_size = 8MB\nwal_keep_size = 512MB\nlog_statement = none\n");
$red->start;
my $tmp = PostgreSQL::Test::Utils::tempdir();
my $proxy = Walcrypt::Proxy->new(settings => { switchover_hook => "sh $tmp/hook" }, nodes => {
	red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir },
	blue => { conninfo => $blue->connstr_for_proxy, datadir => $blue->data_dir, keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
$blue->init_from_proxy($proxy, 'blue', extra => ["--waldir=$small/wal"]);
$blue->append_conf('postgresql.conf', "wal_keep_size = 0\n");
$blue->start;
my $writers = Walcrypt::Writers->new(2, $red, $blue);
$writers->start;
my @switchover = ('switchover', '--config', $proxy->conf, '--to', 'blue');
my $fill = "dd if=/dev/zero of=$small/rest bs=64k 2>/dev/null; dd if=/dev/zero of=$small/rest2 bs=1k 2>/dev/null";
sub streams { wait_for('blue to stream', sub { IPC::Run::run([ $Walcrypt::ctl, @switchover, '--dry-run' ], '<', \undef, '>', \my $out, '2>', \my $err) }); return; }
sub room { unlink "$small/rest", "$small/rest2"; return; }

# after the checks
append_to_file("$tmp/hook", "[ \"\$WALCRYPT_ACTION\" != pause ] || { $fill; psql -XAtq -d '" . $red->connstr_for_proxy . " dbname=postgres' -c 'CREATE TABLE much AS SELECT i FROM generate_series(1, 400000) i'; until grep -q 'No space left on device' " . $blue->logfile . "; do sleep 0.1; done; }\n");
streams();
my $began = $red->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
my ($rc, $out, $err) = ctl_output(@switchover, '--timeout', 8);
is($rc, 1, 'a full disk before the stop: it fails') or diag($out, $err);
like($err, qr/^ERROR:  given up, and everything put back: the standby's catching up did not happen within 8 s\nDETAIL:  "blue": it (?:does not|has \S+ \S+ to replay)/, '... the reason');
is($red->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $began, '... the primary was never away');
ok(!-e $red->data_dir . '/standby.signal' && !-e $proxy->keystore . '/switchover.json', '... and nothing is left of it');
$writers->wait_for_commits(20);
room();

# at the promotion
unlink "$tmp/hook";
append_to_file("$tmp/hook", "true\n");
streams();
my $tool = Walcrypt::Stopped->at_state($proxy->keystore, 'proven', @switchover, '--timeout', 20);
system($fill);
$tool->run_on;
wait_for('the standby to go down', sub { !-e $blue->data_dir . '/postmaster.pid' });
$tool->{run}->finish;
wait_for('the tool', sub { IPC::Run::run([ 'flock', '-n', $proxy->keystore . '/switchover.lock', 'true' ]) });
like(slurp_from($proxy->keystore . '/switchover.json'), qr/"state": "promoting"/, 'a full disk at the promotion: stopped midway');
$blue->_update_pid(0);
room();
$blue->start;
($rc, $out, $err) = ctl_output('switchover', '--config', $proxy->conf, '--resume');
is($rc, 0, '... it goes on when there is room') or diag($out, $err);
is($blue->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', '... the standby is the primary');
$writers->wait_for_commits(20, 'blue');
$writers->account($blue);
$red->_update_pid(0);
$blue->check_integrity('blue');
done_testing();
