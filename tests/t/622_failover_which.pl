# Goal: a failover is of the node that was the primary, and only when none is. Where standbys stream from standbys the lost one is the upper end of
# the cascade; a primary that answers anywhere is a refusal. Who has most is told by the timeline of its WAL, not by a pg_control that has not
# heard of it yet: the standby that was just built does not pass for the better one.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my @names = qw(red blue green);
my %node = map { $_ => Walcrypt::Node->new($_) } @names;
$node{red}->init(allows_streaming => 1, extra => ['-k']);
# nothing but a restart point, which is an hour away, may write pg_control of a standby: no page of it is put out before
$node{red}->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 512MB\nshared_buffers = 64MB\nbgwriter_lru_maxpages = 0\nautovacuum = off\ncheckpoint_timeout = 1h\n");
$node{red}->start;
$node{red}->safe_psql('postgres', 'CREATE TABLE t (i int)');
my $proxy = Walcrypt::Proxy->new(nodes => { map { $_ => { conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir, allow_clear => 'on' } } @names });
my @failover = ('failover', '--config', $proxy->conf);
my $n = 0;

sub build
{
	my ($name) = @_;
	my $node = $node{$name};
	system_or_bail('rm', '-rf', $node->data_dir);
	system_or_bail('pg_basebackup', '-D', $node->data_dir, '-d', $proxy->connstr($name), '--checkpoint=fast', '--no-sync', '-R');
	$node->append_conf('postgresql.auto.conf', 'port = ' . $node->port . "\nunix_socket_directories = '" . $node->host . "'\nprimary_conninfo = '" . $proxy->connstr($name) . " application_name=$name'\n");
	$node->start;
	return;
}
sub insert { my ($on, $to) = @_; $n++; $node{$on}->safe_psql('postgres', "INSERT INTO t VALUES ($n)"); my $lsn = $node{$on}->lsn('flush'); $node{$to}->poll_query_until('postgres', "SELECT pg_last_wal_receive_lsn() >= '$lsn'") or die; return; }
# A proxy that starts has forgotten all streams.
sub reconfigure
{
	my ($name, $upstream) = @_;
	$proxy->stop;
	delete $proxy->{nodes}{$name}{upstream};
	$proxy->{nodes}{$name}{upstream} = $upstream if defined $upstream;
	$proxy->write_conf;
	$proxy->start;
	return;
}
sub fenced { return join(' ', grep { -e $node{$_}->data_dir . '/standby.signal' } @names); }

$proxy->start;
build($_) for qw(blue green);
$proxy->wait_for_stream($_, 'red') for qw(blue green);

# blue is to stream from green, which is gone; the primary is not
$node{green}->stop;
reconfigure(blue => 'green');
my ($rc, $out, $err) = ctl_output(@failover, '--to', 'blue');
is($rc, 6, 'a primary that answers is not failed over, though another node does not answer') or diag($err);
like($err, qr/node "red" is there, and a primary/, 'that is said');
is($node{blue}->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'nothing is promoted');
($rc, $out, $err) = ctl_output(@failover, '--to', 'blue', '--yes');
is($rc, 6, '--yes does not make it so');

# nor does a role that may not say of which cluster it is; each node is asked once
$node{red}->safe_psql('postgres', 'CREATE ROLE little LOGIN; REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC');
$node{red}->safe_psql('postgres', "ALTER SYSTEM SET log_connections = on; SELECT pg_reload_conf()");
$node{red}->poll_query_until('postgres', 'SHOW log_connections', 'on') or die;
$proxy->{nodes}{red}{control_conninfo} = 'host=' . $node{red}->host . ' port=' . $node{red}->port . ' user=little';
$proxy->write_conf;
my $offset = -s $node{red}->logfile;
($rc, $out, $err) = ctl_output(@failover, '--to', 'blue', '--yes');
is($rc, 6, 'a primary that can not tell its system identifier is a primary') or diag($err);
like($err, qr/node "red" is there, and a primary/, 'that is said');
like($err, qr/DETAIL:  Whether it is of this cluster is not known: node "red": .*permission denied for function pg_control_system/, 'and what is not known of it');
is(scalar(() = slurp_from($node{red}->logfile, $offset) =~ /connection authorized: user=little/g), 1, 'it is asked once');
delete $proxy->{nodes}{red}{control_conninfo};
$proxy->write_conf;
$node{red}->safe_psql('postgres', 'ALTER SYSTEM RESET log_connections; SELECT pg_reload_conf()');
$node{red}->poll_query_until('postgres', 'SHOW log_connections', 'off') or die;
$node{red}->safe_psql('postgres', 'GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC; DROP ROLE little');

# two are gone, and nobody knows which was the primary: pg_control does
$node{red}->kill9;
($rc, $out, $err) = ctl_output(@failover, '--to', 'blue');
is($rc, 0, 'the standby that is down too does not count') or diag($err);
like($out, qr/^Failover from "red", which is lost, to "blue":/, 'it is the primary that is lost');
is(fenced(), 'red green', 'and fenced');
like($out, qr/the lost primary is fenced/, 'which is said');
reconfigure(blue => undef);

# green follows; red is built anew, so it alone has been told of the timeline in pg_control
$node{green}->start;
$proxy->wait_for_stream('green', 'blue');
# a receiver that tries again knows the timeline, too, at moments
$node{green}->safe_psql('postgres', "ALTER SYSTEM SET wal_retrieve_retry_interval = '1h'; SELECT pg_reload_conf()");
build('red');
$proxy->wait_for_stream('red', 'blue');
$node{red}->stop;
insert('blue', 'green');
$node{blue}->kill9;
$node{red}->start;
$node{green}->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver') or die;
is($node{green}->safe_psql('postgres', 'SELECT min_recovery_end_timeline FROM pg_control_recovery()'), 1, 'what pg_control of the better one says is old');
($rc, $out, $err) = ctl_output(@failover, '--to', 'red');
is($rc, 6, 'the worse one is refused') or diag($err);
like($err, qr/node "green" has more than "red"/, 'the better one is named');
($rc, $out, $err) = ctl_output(@failover, '--to', 'red', '--yes', '--dry-run');
is($rc, 0, '--yes would take it nevertheless') or diag($err);
($rc, $out, $err) = ctl_output(@failover, '--to', 'green');
is($rc, 0, 'and taken') or diag($err);
is($node{green}->safe_psql('postgres', 'SELECT max(i) FROM t'), $n, 'with the last row');

# green's section has no fence
delete $proxy->{nodes}{green}{datadir};
$proxy->{nodes}{green}{control} = 'true';
$proxy->{nodes}{green}{control_data} = 'pg_controldata -D ' . $node{green}->data_dir;

# blue is built anew and streams from red, which streams from green: when that is gone it is green that is lost
$proxy->wait_for_stream('red', 'green');
reconfigure(blue => 'red');
$proxy->wait_for_stream('red', 'green');
build('blue');
$proxy->wait_for_stream('blue', 'red');
insert('green', 'blue');
$node{green}->kill9;
($rc, $out, $err) = ctl_output(@failover, '--to', 'blue');
is($rc, 0, 'the end of a cascade takes over') or diag($err);
like($out, qr/^Failover from "green", which is lost, to "blue":/, 'from the cascade\'s upper end');
like($out, qr/note  nothing keeps "green" from coming back as a primary: its section has no fence/, 'that nothing fences it is said');
unlike($out, qr/is fenced/, 'and nothing else');
is($node{red}->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'the standby between goes on');
is($node{blue}->safe_psql('postgres', 'SELECT pg_is_in_recovery(), max(i) FROM t'), "f|$n", 'with the last row');
done_testing();
