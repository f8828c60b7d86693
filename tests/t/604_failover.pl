# Goal: the primary is killed while clients write, under synchronous replication; walcrypt-ctl failover promotes the standby that has
# most, the other one follows through the proxy, the lost one is built anew; again and again, and no acknowledged commit is lost.
# WALCRYPT_ROUNDS=100 makes as many rounds.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Writers;

my $rounds = $ENV{WALCRYPT_ROUNDS} // 4;
my @names = qw(red blue green);
my %node = map { $_ => Walcrypt::Node->new($_) } @names;
my $red = $node{red};
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 512MB\nsynchronous_standby_names = 'ANY 1 (red, blue, green)'\nwal_receiver_status_interval = 1s\nrestart_after_crash = off\n");
$red->start;
my $proxy = Walcrypt::Proxy->new(nodes => { map { $_ => { conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir, $_ eq 'red' ? (allow_clear => 'on') : (keyset => $_) } } @names });
$proxy->key_init($_) for qw(blue green);
$proxy->start;
for my $name (qw(blue green)) { $node{$name}->init_from_proxy($proxy, $name); $node{$name}->start; }
$red->append_conf('postgresql.auto.conf', "primary_conninfo = '" . $proxy->connstr('red') . " application_name=red'\n");
my $writers = Walcrypt::Writers->new(2, @node{@names});
$writers->start;
my ($primary, @problems) = ('red');
my @failover = ('failover', '--config', $proxy->conf);

sub received { my ($name) = @_; return ($node{$name}->psql('postgres', "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"))[1]; }

my ($rc, $out, $err) = ctl_output(@failover, '--to', 'blue');
is($rc, 6, 'a primary that is there is not failed over');
like($err, qr/node "red" is there, and a primary\nHINT:  Nothing is lost by: walcrypt-ctl switchover --to blue/, 'that is said');
for my $round (1 .. $rounds) {
	my @standbys = grep { $_ ne $primary } @names;
	$proxy->wait_for_stream($_, $primary) for @standbys;
	$writers->wait_for_commits(100);
	$node{$primary}->kill9;
	wait_for('the streams to end', sub { $proxy->console('SHOW STANDBYS') !~ /\|streams\|\d+\|\Q$primary\E\|/ });
	# what is still on its way would make a standby longer than it is found here
	for my $name (@standbys) { wait_for("$name to have taken all", sub { (($node{$name}->psql('postgres', "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"))[1] // '') eq '0' }); }
	my %has = map { $_ => received($_) } @standbys;
	my ($best, $other) = sort { $has{$b} <=> $has{$a} } @standbys;
	if ($has{$other} < $has{$best}) {
		($rc, $out, $err) = ctl_output(@failover, '--to', $other);
		push @problems, "round $round: the worse one is taken: $rc $err" if $rc != 6 || $err !~ /node "$best" has more than "$other"/;
	}
	($rc, $out, $err) = ctl_output(@failover, '--to', $best);
	push @problems, "round $round: failover ends with $rc: $out$err" if $rc != 0;
	push @problems, "round $round: the audit log does not tell of it" if ctl(qw(key audit --show --config), $proxy->conf) !~ /"action":"failover","state":"done".*\n\z/;
	push @problems, "round $round: $primary is not fenced" if !-e $node{$primary}->data_dir . '/standby.signal';
	last if @problems;
	my $lost = $primary;
	$primary = $best;
	$proxy->wait_for_stream($other, $primary);
	# the lost one is built anew
	my $dir = $node{$lost}->data_dir;
	system_or_bail('rm', '-rf', $dir);
	system_or_bail('pg_basebackup', '-D', $dir, '-d', $proxy->connstr($lost), '--checkpoint=fast', '--no-sync', '-R');
	$node{$lost}->append_conf('postgresql.auto.conf', 'port = ' . $node{$lost}->port . "\nunix_socket_directories = '" . $node{$lost}->host . "'\nprimary_conninfo = '" . $proxy->connstr($lost) . " application_name=$lost'\n");
	$node{$lost}->start;
}
is("@problems", '', "$rounds rounds");
$writers->wait_for_commits(50);
$writers->account($node{$primary});
done_testing();
