# Writes what a release leaves on disk, for every release after it to open (720_formats): a keystore with a cluster's keysets, its ledger,
# timelines and audit log, a keyset under a passphrase, a segment of WAL, a backup of keys; and the keys to them, which protect nothing.
#   WALCRYPT_FORMATS=DIR scripts/staged tests/run tests/vectors/formats/make.pl     DIR may be written by the user of the tests
use strict;
use warnings;
use File::Copy ();
use IO::Compress::Gzip qw(gzip);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $out = $ENV{WALCRYPT_FORMATS} // die "WALCRYPT_FORMATS is not set\n";
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => [ '-k', '--wal-segsize=1' ]);
$red->start;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
my @conf = ('--config', $proxy->conf);
$proxy->key_init('blue');
ctl('key', 'new-epoch', 'blue', @conf);
append_to_file($proxy->{dir} . '/passphrase', "correct horse battery staple\n");
chmod 0600, $proxy->{dir} . '/passphrase';
ctl('key', 'init', 'green', '--kek', "passphrase:$proxy->{dir}/passphrase", '--create-kek', '--own-wal-key', @conf);
$proxy->start;
$red->safe_psql('postgres', 'CREATE TABLE t (text text); INSERT INTO t VALUES (NULL); SELECT pg_switch_wal()');
my $segment = $red->safe_psql('postgres', "INSERT INTO t VALUES ('a row of the formats'); SELECT pg_walfile_name(pg_current_wal_lsn())");
my $end = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
$red->safe_psql('postgres', 'INSERT INTO t SELECT * FROM t');
my $wal = "$proxy->{dir}/wal";
mkdir $wal;
system_or_bail('pg_receivewal', '-D', $wal, '-d', $proxy->connstr('blue'), '--no-sync', '-n', '--endpos', $end);
$proxy->stop;
ctl('key', 'backup', "$proxy->{dir}/backup", 'blue', '--passphrase-file', "$proxy->{dir}/passphrase", @conf);

mkdir "$out/$_" or die "$out/$_: $!" for qw(keystore keystore/blue keystore/blue/live keystore/green keystore/green/live wal);
for my $file (map { substr $_, length "$proxy->{dir}/" } map { glob "$proxy->{dir}/$_" } qw(kek passphrase backup keystore/audit.log keystore/timelines keystore/*/live/* keystore/ledger wal/*)) {
	my $compressed = $file =~ /ledger|^wal/ ? '.gz' : '';
	my $to = "$out/" . ($file =~ s/\.partial$//r) . $compressed;
	if ($compressed) { gzip("$proxy->{dir}/$file" => $to, Minimal => 1) or die $file }
	else { File::Copy::copy("$proxy->{dir}/$file", $to) or die $file }
}
ok(-f "$out/wal/$segment.gz", 'there is the segment');
done_testing();
