# Goal: the key management (OpenBao, behind a relay that is cut) is away at the start of a rotation, in the middle, and when it is to be put back. A
# switchover needs none. What needs it says so, nothing is lost or half done, and it goes on when the keys are there again.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Relay;
use Walcrypt::Stopped;
use Walcrypt::Strace;
use Walcrypt::Vault;
use Walcrypt::Writers;

needs_strace();
my $tmp = PostgreSQL::Test::Utils::tempdir();
my $bao = Walcrypt::Vault->new(name => 'switchover');
my ($bao_host, $bao_port) = $bao->host_port =~ /^(.*):(\d+)$/;
my $relay = Walcrypt::Relay->new({ host => $bao_host, port => $bao_port });
$relay->start;
my %node = map { $_ => Walcrypt::Node->new($_) } qw(red blue green);
my $red = $node{red};
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\nlog_statement = none\n");
$red->start;
my $proxy = Walcrypt::Proxy->new(kek_uri => 'vault-kv+http://127.0.0.1:' . $relay->port . '/secret/switchover?token_file=' . $bao->token_file, kek_options => { timeout => '2s' },
	settings => { switchover_hook => "sh $tmp/hook" }, nodes => {
	red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir },
	map { $_ => { conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir, keyset => $_ } } qw(blue green) });
append_to_file("$tmp/hook", "[ ! -e $tmp/cut.\$WALCRYPT_ACTION ] || /bin/kill -KILL -- -\$(cat $tmp/cut.\$WALCRYPT_ACTION)\n");
$proxy->key_init('blue', '--create-kek');
$proxy->key_init('green');
$proxy->start;
$ENV{WALCRYPT_CONFIG} = $proxy->conf;
$node{blue}->init_from_proxy($proxy, 'blue');
$node{blue}->use_layer('site')->start;
my $writers = Walcrypt::Writers->new(2, @node{qw(red blue green)});
$writers->start;
my @conf = ('--config', $proxy->conf);
my $logbook = $proxy->keystore . '/switchover.json';
sub is_primary { my ($name, $what) = @_; is(($node{$name}->psql('postgres', 'SELECT pg_is_in_recovery()'))[1], 'f', $what); $writers->wait_for_commits(20); return; }

# without key management one can switch over
$relay->cut;
my ($rc, $out, $err) = ctl_output('switchover', @conf, '--to', 'blue');
is($rc, 0, 'a switchover needs no cluster key') or diag($out, $err);
is_primary('blue', 'blue is the primary');

# at the start of a rotation
($rc, $out, $err) = ctl_output('rotate', @conf, '--to', 'green', '--old', 'reencrypt', '--yes');
is($rc, 4, 'a rotation begins with one');
like($err, qr/^ERROR:  .*could not (?:reach|connect)|^ERROR:  .*refused/im, 'which is said') or diag($err);
ok(!-e $logbook && !-e $node{green}->data_dir . '/PG_VERSION', 'nothing has begun');
is_primary('blue', 'blue is still the primary');

# in the middle: when the traffic is moved it goes away
$relay->start;
append_to_file("$tmp/cut.switch", $relay->{pid});
($rc, $out, $err) = ctl_output('rotate', @conf, '--to', 'green', '--old', 'reencrypt', '--yes');
is($rc, 7, 'away in the middle: stopped midway') or diag($out, $err);
like($err, qr/walcrypt-ctl key ended with exit status 4/, '... for lack of the cluster key');
like($err, qr/127\.0\.0\.1/, '... and where it was looked for');
is_primary('green', '... the target is the primary');
like(slurp_from($logbook), qr/"state": "followed"/, '... only the old one is not settled');
($rc, $out, $err) = ctl_output('rotate', @conf, '--resume');
is($rc, 7, '... still away: still midway') or diag($out, $err);
unlink "$tmp/cut.switch";
$relay->start;
($rc, $out, $err) = ctl_output('rotate', @conf, '--resume');
is($rc, 0, '... it goes on when it is back') or diag($out, $err);
$proxy->wait_for_stream('blue', 'green');
pass('... the old primary follows under its next key');

# on the way back: the encrypted old primary cannot be started
wait_for('blue', sub { IPC::Run::run([ $Walcrypt::ctl, 'switchover', @conf, '--to', 'blue', '--dry-run' ], '<', \undef, '>', \my $o, '2>', \my $e) });
my $tool = Walcrypt::Stopped->at_state($proxy->keystore, 'stopped', 'switchover', @conf, '--to', 'blue');
$tool->kill9;
$relay->cut;
($rc, $out, $err) = ctl_output('switchover', @conf, '--abort');
is($rc, 7, 'away when the old primary shall be started again');
like($err, qr/could not start node "green"/, '... which is said') or diag($err);
like(slurp_from($logbook), qr/"state": "aborting"/, '... it is on its way back');
$relay->start;
($rc, $out, $err) = ctl_output('switchover', @conf, '--abort');
is($rc, 0, '... and there when the keys are') or diag($out, $err);
is_primary('green', '... the old primary is the primary');
is($node{blue}->psql('postgres', 'SELECT pg_is_in_recovery()'), 0, '... and the target answers');

$writers->account($node{green});
for my $node (values %node) {
	system('pg_ctl -D ' . $node->data_dir . ' -m fast -w stop >/dev/null 2>&1') if -e $node->data_dir . '/postmaster.pid';
	$node->_update_pid(0);
}
done_testing();
