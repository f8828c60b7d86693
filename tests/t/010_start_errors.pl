# A server that cannot be unlocked, or that is started the wrong way, does not start: one clear line each, and nothing is written.
use strict;
use warnings;
use Digest::MD5;
use File::Copy qw(copy move);
use File::Find;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $kek = 'file:' . kek_file("$tmp/errors_kek");

# name => content digest of every file; equal before and after means that nothing was written
sub picture
{
	my ($dir) = @_;
	my %md5;
	find({ no_chdir => 1, wanted => sub {
		return unless -f $_;
		open(my $f, '<:raw', $_) or return;
		$md5{$_} = Digest::MD5->new->addfile($f)->hexdigest;
	} }, $dir);
	return \%md5;
}

my $node = Walcrypt::Node->new('one');
$node->init_encrypted($kek, allows_streaming => 1);
$node->start;
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 100) i');
$node->stop;
my $other = Walcrypt::Node->new('other');
$other->init_encrypted($kek, allows_streaming => 1);

my $keys = $node->data_dir . '/pg_cryptokeys/live';

sub flip
{
	my ($file, $offset) = @_;
	open(my $f, '+<:raw', $file) or die;
	seek($f, $offset, 0);
	read($f, my $byte, 1);
	seek($f, $offset, 0);
	print $f chr(ord($byte) ^ 1);
	close $f;
}

# spoil returns the code that puts things back
my @cases = (
	[ 'another cluster key', qr/cluster key/, sub {
		my $before = $node->{_walcrypt_kek};
		$node->use_layer('file:' . kek_file("$tmp/errors_kek2"));
		return sub { $node->use_layer($before) };
	} ],
	[ 'no cluster key to be had', qr/errors_kek_gone/, sub {
		my $before = $node->{_walcrypt_kek};
		$node->use_layer("file:$tmp/errors_kek_gone");
		return sub { $node->use_layer($before) };
	} ],
	[ 'a cluster key that others may read', qr/permission|mode/, sub {
		chmod(0644, "$tmp/errors_kek");
		return sub { chmod(0600, "$tmp/errors_kek") };
	} ],
	[ 'a key command that fails', qr/exit|status/i, sub {
		my $before = $node->{_walcrypt_kek};
		$node->use_layer('command:exit 7');
		return sub { $node->use_layer($before) };
	} ],
	[ 'damaged relation.wkey', qr/relation\.wkey/, sub {
		flip("$keys/relation.wkey", 20);
		return sub { flip("$keys/relation.wkey", 20) };
	} ],
	[ 'missing wal.wkey', qr/wal\.wkey/, sub {
		move("$keys/wal.wkey", "$tmp/wal.wkey");
		return sub { move("$tmp/wal.wkey", "$keys/wal.wkey") };
	} ],
	[ 'swapped .wkey files', qr/swap|wkey/, sub {
		my $swap = sub {
			move("$keys/wal.wkey", "$tmp/swap");
			move("$keys/relation.wkey", "$keys/wal.wkey");
			move("$tmp/swap", "$keys/relation.wkey");
		};
		$swap->();
		return $swap;
	} ],
	[ 'changed keyset.json', qr/keyset\.json/, sub {
		my $text = slurp_file("$keys/keyset.json");
		(my $changed = $text) =~ s/AES256/AES128/;
		append_to_file("$tmp/keyset.json", '');
		open(my $f, '>', "$keys/keyset.json") or die;
		print $f $changed;
		close $f;
		return sub { open(my $g, '>', "$keys/keyset.json") or die; print $g $text; close $g; };
	} ],
	[ 'keys of another cluster', qr/another cluster|system identifier/, sub {
		system('mv', $node->data_dir . '/pg_cryptokeys', "$tmp/keys_away");
		system('cp', '-rp', $other->data_dir . '/pg_cryptokeys', $node->data_dir . '/pg_cryptokeys');
		return sub { system('rm', '-rf', $node->data_dir . '/pg_cryptokeys'); system('mv', "$tmp/keys_away", $node->data_dir . '/pg_cryptokeys'); };
	} ],
	[ 'no key directory', qr/pg_cryptokeys|not encrypted/, sub {
		system('mv', $node->data_dir . '/pg_cryptokeys', "$tmp/keys_away");
		return sub { system('mv', "$tmp/keys_away", $node->data_dir . '/pg_cryptokeys'); };
	} ],
	[ 'no storage layer (guard), as a primary', qr/walcrypt/, sub {
		my $before = $node->{_walcrypt_kek};
		$node->use_layer(undef);
		return sub { $node->use_layer($before) };
	} ],
	[ 'no storage layer (guard), as a standby', qr/walcrypt/, sub {
		my $before = $node->{_walcrypt_kek};
		$node->use_layer(undef);
		$node->set_standby_mode;
		return sub { unlink $node->data_dir . '/standby.signal'; $node->use_layer($before) };
	} ],
);

for my $case (@cases) {
	my ($name, $message, $spoil) = @$case;
	my $restore = $spoil->();
	my $before = picture($node->data_dir);
	my $offset = -s $node->logfile;
	is($node->start(fail_ok => 1), 0, "$name: does not start");
	my $log = slurp_from($node->logfile, $offset);
	my @fatal = grep { /FATAL|PANIC/ } split(/\n/, $log);
	is(scalar @fatal, 1, "$name: one line") or diag($log);
	like($fatal[0] // '', $message, "$name: which says why");
	is_deeply(picture($node->data_dir), $before, "$name: nothing is written");
	$restore->();
}
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '100', 'put right again, it starts');
$node->stop;

# the layer on a directory that is not encrypted
my $plain = Walcrypt::Node->new('plain');
$plain->init(allows_streaming => 1);
my $before = picture($plain->data_dir);
$plain->use_layer($kek);
is($plain->start(fail_ok => 1), 0, 'under the layer an unencrypted directory does not start');
my @fatal = grep { /FATAL|PANIC/ } split(/\n/, slurp_file($plain->logfile));
is(scalar @fatal, 1, 'one line');
like($fatal[0] // '', qr/not encrypted|pg_cryptokeys/, 'which says why');
is_deeply(picture($plain->data_dir), $before, 'nothing is written');
$plain->use_layer(undef);
$plain->start;
$plain->stop;
done_testing();
