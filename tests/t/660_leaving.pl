# Goal: docs/leaving.md. An encrypted primary under load is left for a clear standby that stock pg_basebackup has built through the proxy. Then
# there is no walcrypt any more: not in the server's memory, not in its directory, not in its configuration; nothing acknowledged is lost.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Writers;

my $marker = 'marker-660-hinaus';
my ($red, $blue, $grey, $last) = map { Walcrypt::Node->new($_) } qw(red blue grey last);
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, '$marker' || i AS text FROM generate_series(1, 5000) i");
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
$blue->init_from_proxy($proxy, 'blue');
$blue->start;
$blue->take_over($red);
$blue->safe_psql('postgres', 'CHECKPOINT');
is(scalar(() = files_containing($marker, $blue->data_dir)), 0, 'the primary is encrypted');

# the clear node
$proxy->{nodes} = {
	blue => { keyset => 'blue', conninfo => $blue->connstr_for_proxy, datadir => $blue->data_dir },
	grey => { keyset => 'none', allow_clear => 'on', conninfo => $grey->connstr_for_proxy, datadir => $grey->data_dir } };
$proxy->write_conf;
ctl('reload', '--config', $proxy->conf);
my $writers = Walcrypt::Writers->new(2, $blue, $grey);
$writers->start;
system_or_bail('pg_basebackup', '-D', $grey->data_dir, '-d', $proxy->connstr('grey') . ' application_name=grey', '-R', '--checkpoint=fast', '--no-sync');
$grey->append_conf('postgresql.auto.conf', 'port = ' . $grey->port . "\nunix_socket_directories = '" . $grey->host . "'\n");
ok(!-e $grey->data_dir . '/pg_cryptokeys', 'no keys came with the backup');
unlike(slurp_file($grey->data_dir . '/postgresql.auto.conf'), qr/libwalcrypt/, '... and no guard');
# as anybody starts it, without the layer
$grey->start;
wait_for('grey to stream', sub { $proxy->console('SHOW STANDBYS') =~ /^grey\|grey\|[^|]*\|streams\|/m });
like(ctl('switchover', '--config', $proxy->conf, '--to', 'grey', '--dry-run'), qr/note  "grey" is clear: its files and all WAL from then on will be/, 'the dry run says what it means');
$writers->wait_for_commits(50);
my ($rc, $out, $err) = ctl_output('switchover', '--config', $proxy->conf, '--to', 'grey');
is($rc, 0, 'the switchover to the clear standby') or diag($out, $err);
$blue->_update_pid(0);
$writers->wait_for_commits(50, 'grey');

# without us
$proxy->stop;
$writers->wait_for_commits(50, 'grey');
$writers->account($grey);
is($grey->safe_psql('postgres', 'SELECT count(*) FROM t'), '5000', 'the rows are there');
$grey->append_conf('postgresql.auto.conf', "primary_conninfo = ''\n");
$grey->restart;
my $pid = (split /\n/, slurp_file($grey->data_dir . '/postmaster.pid'))[0];
unlike(slurp_file("/proc/$pid/maps"), qr/walcrypt-storage/, 'the server has no layer');
$grey->safe_psql('postgres', 'CHECKPOINT');
cmp_ok(scalar(() = files_containing($marker, $grey->data_dir)), '>', 0, 'its files are clear');
# a stock standby of it, and the old one is noise
$grey->backup('after');
$last->init_from_backup($grey, 'after', has_streaming => 1);
$last->append_conf('postgresql.auto.conf', 'port = ' . $last->port . "\nunix_socket_directories = '" . $last->host . "'\nprimary_conninfo = '" . $grey->connstr . " application_name=last'\n");
$last->start;
$grey->safe_psql('postgres', "INSERT INTO t VALUES (0, 'last')");
$grey->wait_for_catchup('last', 'replay', $grey->lsn('insert'));
is($last->safe_psql('postgres', 'SELECT count(*) FROM t'), '5001', 'a stock standby of the clear primary');
$last->stop;
$grey->check_integrity('the clear primary');
my @left = map { files_containing($_, $grey->data_dir) } qw(libwalcrypt pg_cryptokeys);
is(join(' ', @left), '', 'nothing in its directory speaks of walcrypt') or diag(@left);
done_testing();
