# Goal: a primary that does not answer walcrypt-ctl may live on, and have its commits acknowledged by another standby, until a failover has stopped it. So who has most is asked
# again when it is down: the target that was the best when it began, and is not any more, is not promoted, and the other one has every acknowledged row.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Stopped;
use Walcrypt::Strace;

needs_strace();
my @names = qw(red blue green);
my %node = map { $_ => Walcrypt::Node->new($_) } @names;
my $red = $node{red};
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 128MB\nmax_connections = 6\nsuperuser_reserved_connections = 0\nsynchronous_standby_names = 'ANY 1 (blue, green)'\nautovacuum = off\n");
$red->start;
my $proxy = Walcrypt::Proxy->new(nodes => { map { $_ => { conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir, $_ eq 'red' ? (allow_clear => 'on') : (keyset => $_) } } @names });
$proxy->key_init($_) for qw(blue green);
$proxy->start;
for my $name (qw(blue green)) { $node{$name}->init_from_proxy($proxy, $name); $node{$name}->start; }
$proxy->wait_for_stream($_, 'red') for qw(blue green);
$red->safe_psql('postgres', 'CREATE TABLE t (i int)');

# sessions as many as it takes
my @sessions;
while (@sessions < 20) { my $s = eval { $red->background_psql('postgres', on_error_stop => 0) } or last; push @sessions, $s; last if !eval { $s->query_safe('SELECT 1') }; }
print '# ' . @sessions . " sessions\n";
my $lsn = $sessions[0]->query_safe('SELECT pg_current_wal_flush_lsn()');
$node{$_}->poll_query_until('postgres', "SELECT pg_last_wal_receive_lsn() >= '$lsn'") for qw(blue green);
my @failover = ('failover', '--config', $proxy->conf);
my $tool = Walcrypt::Stopped->at_state($proxy->keystore, 'planned', @failover, '--to', 'blue');
pass('a primary that lets nobody in passes for a lost one');
$node{blue}->safe_psql('postgres', "ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'");
$node{blue}->reload;
$node{blue}->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver') or die;
$sessions[0]->query_safe('INSERT INTO t VALUES (1)');
pass('it acknowledges a commit: green has it');
do { $tool->go_on; } while ($tool->stopped);
my ($rc, $out, $err) = $tool->finish;
is($rc, 7, 'it stops midway') or diag($out, $err);
is($node{blue}->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'blue, which has it not, is not promoted');
is($node{green}->safe_psql('postgres', 'SELECT count(*) FROM t'), 1, 'green has it');
$red->_update_pid(0);
($rc, $out, $err) = ctl_output(@failover, '--resume');
is($rc, 7, 'nor is it by --resume') or diag($out, $err);
like($err, qr/^ERROR:  node "green" has more than "blue"/m, '... for a reason that is said');
($rc, $out, $err) = ctl_output(@failover, '--abort');
is($rc, 0, 'it is given up') or diag($out, $err);
($rc, $out, $err) = ctl_output(@failover, '--to', 'green', '--timeout', 10);    # blue cannot follow
is($rc, 0, 'green is promoted') or diag($out, $err);
is($node{green}->safe_psql('postgres', 'SELECT pg_is_in_recovery(), count(*) FROM t'), 'f|1', '... with every acknowledged row');
eval { $_->{run}->kill_kill } for @sessions;
$node{$_}->stop for qw(blue green);
done_testing();
