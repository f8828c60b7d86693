# walcrypt-ctl reencrypt on PostgreSQL 16 to 18, the round of 310 without its refusals: clear -> keys of its own -> a keyset with another
# WAL key -> clear, each time whole, started, crashed and recovered by that version's server.
use strict;
use warnings;
use File::Basename ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Contents;

use_postgres(16) if postgres_major() < 16;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/' . File::Basename::basename($0, '.pl');
mkdir $tmp, 0700;
my $marker = 'MARKER-reencrypt-7e2d';
my ($kek_a, $kek_b) = map { 'file:' . kek_file("$tmp/$_") } qw(kek_a kek_b);

my $node = Walcrypt::Node->new('one');
$node->init(allows_streaming => 1, extra => ['-k']);
$node->append_conf('postgresql.conf', "wal_keep_size = '64MB'\n");
$node->start;
like($node->safe_psql('postgres', 'SHOW server_version'), qr/^@{[postgres_major()]}\./, 'the server is ' . $node->safe_psql('postgres', 'SHOW server_version'));
contents_make($node, $marker, "$tmp/space");
my $sums = contents_sums($node);
my $dir = $node->data_dir;
open(my $f, '>', "$tmp/w.ini") or die;
print $f "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek b]\nuri = $kek_b\n[node blue]\nkeyset = blue\nkek = b\n";
close $f;
chmod(0600, "$tmp/w.ini");
ctl(qw(key init blue --config), "$tmp/w.ini", '--system-identifier', $node->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()'));
$node->stop;
cmp_ok(scalar files_containing($marker, $dir), '>', 3, '(the marker is in the clear directory)');

sub round
{
	my ($name, $kek, @args) = @_;
	my ($rc, $out, $err) = ctl_output('reencrypt', '-D', $dir, '--jobs', 2, @args);
	is($rc, 0, $name) or diag($err);
	my @found = files_containing($marker, $dir);
	my %wal = encrypted_wal_files("$dir/pg_wal");
	my $other = defined $kek ? 'clear' : 'encrypted';
	is(join(' ', grep { $wal{$_} eq $other || $wal{$_} eq 'mixed' } sort keys %wal), '', "$name: no WAL file is $other");
	if (defined $kek) {
		is("@found", '', "$name: the marker is nowhere");
		($rc, $out) = ctl_output('verify', '-D', $dir, '--kek', $kek);
		is($rc, 0, "$name: verify is clean") or diag($out);
	} else {
		cmp_ok(scalar @found, '>', 3, "$name: the marker is back");
		ok(!-e "$dir/pg_cryptokeys", "$name: there are no keys any more");
	}
	$node->use_layer($kek)->start;
	is(contents_sums($node), $sums, "$name: the same rows");
	$node->safe_psql('postgres', "UPDATE heap SET k = k + 1; INSERT INTO heap SELECT max(id) + 1, '$marker $name' FROM heap");
	$node->stop('immediate');
	$node->start;
	$sums = contents_sums($node);
	$node->check_integrity($name);
	return;
}
round('clear -> new', $kek_a, '--to', 'new', '--to-kek', $kek_a);
round('new -> blue', $kek_b, '--to', 'blue', '--kek', $kek_a, '--config', "$tmp/w.ini");
round('blue -> clear', undef, '--to', 'none', '--kek', $kek_b);
done_testing();
