# Half a page without a header: a primary that loses power between the end of a segment switch and the zeros behind it keeps such pages, and
# sends them as they stand. A standby stores zeros there and goes on (it used to end in a PANIC).
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $noise = join('', map { chr(1 + $_ * 7 % 251) } 1 .. 4096);

# Put half pages into the zeros at the end of a finished segment; (offset of the first, of the last).
sub tear
{
	my ($node, $segment) = @_;
	my $path = $node->data_dir . "/pg_wal/$segment";
	my $size = -s $path;
	open(my $f, '+<:raw', $path) or die;
	for my $at ($size - 6 * 8192, $size - 3 * 8192) {
		seek($f, $at, 0);
		print $f "\0" x 4096, $noise;
	}
	close $f;
	return ($size - 6 * 8192, $size - 3 * 8192);
}

my $kek = 'file:' . kek_file("$tmp/kek_107");
for my $kind ('encrypted', 'clear') {
	my $primary = Walcrypt::Node->new("primary_$kind");
	my $standby = Walcrypt::Node->new("standby_$kind");
	my $proxy;
	if ($kind eq 'encrypted') {
		$primary->init_encrypted($kek, allows_streaming => 1, extra => ['-k']);
	} else {
		$primary->init(allows_streaming => 1, extra => ['-k']);
	}
	$primary->append_conf('postgresql.conf', "autovacuum = off\nwal_keep_size = '256MB'\n");
	$primary->start;
	$primary->safe_psql('postgres', 'CREATE TABLE t (id int)');
	if ($kind eq 'encrypted') {
		$primary->backup('base');
		$standby->init_from_backup($primary, 'base', has_streaming => 1);
		$standby->use_layer($kek);
	} else {
		$proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $primary->connstr_for_proxy }, blue => { keyset => 'blue' } });
		$proxy->key_init('blue');
		$proxy->start;
		$standby->init_from_proxy($proxy, 'blue');
		$standby->append_conf('postgresql.auto.conf', "primary_conninfo = '" . $primary->connstr_for_proxy . "'\n");
	}
	# the segment is finished while the standby is not there
	my $segment = $primary->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 1000); SELECT pg_walfile_name(pg_switch_wal())');
	$primary->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1001, 2000)');
	my @at = tear($primary, $segment);
	$standby->start;
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	is($standby->safe_psql('postgres', 'SELECT count(*), sum(id) FROM t'), '2000|2001000', "$kind stream: the standby has the rows behind the half pages");
	my $wal = slurp_file($standby->data_dir . "/pg_wal/$segment");
	is(index($wal, substr($noise, 0, 64)), -1, 'what the half pages held is not on its disk');
	is(substr($wal, $_, 8192), "\0" x 8192, "its page at $_ is zeros") for @at;
	cmp_ok(index(slurp_file($primary->data_dir . "/pg_wal/$segment"), $noise), '>', 0, 'on the primary they still stand');
	unlike(slurp_file($standby->logfile), qr/PANIC|ERROR/, 'it never complained');
	$standby->restart;
	is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'), '2000', 'and starts again');
	$standby->check_integrity("$kind stream: the standby", primary => $primary);
	$primary->check_integrity("$kind stream: the primary");
	$proxy->stop if defined $proxy;
}
done_testing();
