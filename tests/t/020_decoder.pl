# What stands on a real encrypted server's disk is what docs/formats/ says: the independent decoder, which shares no code with us, reads its
# tables, indexes and WAL from the key directory and the cluster key alone.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $marker = 'MARKER-decoder-7d20c3';

sub decode
{
	my ($output, @args) = @_;
	my $err = '';
	IPC::Run::run([ 'python3', '-B', 'tests/decoder/decoder.py', @args ], '<', \undef, '>', $output, '2>', \$err);
	my $rc = $? >> 8;
	chomp $err;
	print "# decoder.py @args: exit $rc: $err\n";
	return ($rc, $err);
}

for my $method (qw(AES128 AES192 AES256))
{
	my $node = Walcrypt::Node->new("node_$method");
	my $kek = kek_file("$PostgreSQL::Test::Utils::tmp_check/kek_020_$method");
	$node->init_encrypted("file:$kek", extra => ['-k'], ctl_options => [ '-K', $method ]);
	$node->start;
	# several pages of heap, a free space map, and a row that is in WAL only
	$node->safe_psql('postgres', "CREATE TABLE letters (id int PRIMARY KEY, body text);
		INSERT INTO letters SELECT i, '$marker ' || i FROM generate_series(1, 2000) i; VACUUM letters; CHECKPOINT;
		INSERT INTO letters VALUES (0, '$marker wal')");
	my $db = $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = 'postgres'");
	my $rel = $node->safe_psql('postgres', "SELECT pg_relation_filenode('letters')");
	my $class = $node->safe_psql('postgres', "SELECT pg_relation_filenode('pg_database')");
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
	$node->stop;

	my $dir = $node->data_dir;
	my @keys = ('--key-dir', "$dir/pg_cryptokeys", '--kek-file', $kek);
	my ($out, $rc, $err);

	($rc) = decode(\$out, 'keys', @keys);
	is($rc, 0, "$method: it opens the key directory");
	my $show = ctl('key', 'show', '-D', $dir);
	for my $id ($out =~ /\b([0-9a-f]{16})$/mg) {
		like($show, qr/\Q$id\E/, "$method: key show names the same key $id");
	}

	my @place = ('--db', $db, '--rel', $rel, '--fork', 'main');
	is(scalar files_containing($marker, "$dir/base", "$dir/pg_wal"), 0, "$method: the marker is in no file");
	($rc, $err) = decode(\$out, 'page', @keys, @place, '--block', 1, "$dir/base/$db/$rel");
	is($rc, 0, "$method: it decrypts a page");
	is(length($out), 8192, "$method: of 8192 bytes");
	is($err, 'checksum holds', "$method: whose checksum holds");
	cmp_ok(scalar(() = $out =~ /\Q$marker\E \d+/g), '>', 50, "$method: with its rows");
	($rc, $err) = decode(\$out, 'page', @keys, @place, '--block', 2, "$dir/base/$db/$rel");
	is($err, 'checksum holds', "$method: and the next");
	($rc, $err) = decode(\$out, 'page', @keys, '--db', $db, '--rel', $rel, '--fork', 'fsm', '--block', 0, "$dir/base/$db/${rel}_fsm");
	is($err, 'checksum holds', "$method: a free space map");
	($rc, $err) = decode(\$out, 'page', @keys, '--db', 0, '--rel', $class, '--block', 0, "$dir/global/$class");
	is($err, 'checksum holds', "$method: a shared catalog");
	like($out, qr/template0/, "$method: with its rows");

	# the control: at another place it is noise
	open(my $f, '<:raw', "$dir/base/$db/$rel") or die;
	read($f, my $page, 8192);
	close $f;
	open($f, '>:raw', "$PostgreSQL::Test::Utils::tmp_check/page_020") or die;
	print $f $page;
	close $f;
	($rc, $err) = decode(\$out, 'page', @keys, @place, '--block', 0, "$PostgreSQL::Test::Utils::tmp_check/page_020");
	is($err, 'checksum holds', "$method: a page alone");
	($rc, $err) = decode(\$out, 'page', @keys, @place, '--block', 1, "$PostgreSQL::Test::Utils::tmp_check/page_020");
	like($err, qr/^checksum is /, "$method: as another block it is noise");

	($rc) = decode(\$out, 'wal', @keys, "$dir/pg_wal/$lsn");
	is($rc, 0, "$method: it decrypts WAL");
	is(length($out), -s "$dir/pg_wal/$lsn", "$method: all of it");
	like($out, qr/\Q$marker\E wal/, "$method: with its records");
	($rc, $err) = decode(\$out, 'keys', '--key-dir', "$dir/pg_cryptokeys", '--kek-file', kek_file("$PostgreSQL::Test::Utils::tmp_check/kek_020_wrong_$method"));
	is($rc, 2, "$method: under another cluster key it opens nothing");
}
done_testing();
