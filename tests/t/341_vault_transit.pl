# Cluster keys wrapped by a transit engine: made, opened, wrapped anew when the transit key is rotated, changed, moved to and from other
# providers; and what is refused. The transit key never leaves the real OpenBao server.
use strict;
use warnings;
use File::Copy qw(copy);
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/transit';
mkdir $tmp, 0700;
my $dev = Walcrypt::Vault->new(name => 'transit');
$dev->enable('transit', 'secrets', 'transit');
my $uri = $dev->uri('vault-transit', 'transit/walcrypt');
my @id  = qw(--system-identifier 7000000000000000001);
my $n   = 0;

sub conf
{
	my ($kek, $keystore) = @_;
	my $file = "$tmp/c" . ++$n . '.ini';
	$keystore //= "$tmp/ks$n";
	open(my $f, '>', $file) or die;
	print $f "[walcrypt]\nauth_type = trust\nkeystore = $keystore\n[kek site]\nuri = $kek\n[node red]\nconninfo = host=$tmp port=1\nkeyset = none\n"
	  . "[node blue]\nkeyset = blue\nkek = site\n[node green]\nkeyset = green\nkek = site\n";
	close $f;
	chmod 0600, $file;
	return ($file, $keystore);
}

sub like_error
{
	my ($status, $words, $name, @command) = @_;
	my ($rc, $out, $err) = ctl_output(@command);
	is($rc, $status, "$name: exit status");
	like($err, $words, "$name: message");
	unlike($err, qr/\b[0-9a-f]{64}\b|root-of-/, "$name: neither key nor token in it");
	return;
}

sub put { my ($file, $text) = @_; open(my $f, '>', $file) or die; print $f $text; close $f; chmod 0600, $file; return; }
sub kek_id { return (ctl('key', 'show', @_) =~ /^cluster key +([0-9a-f]{16})/m)[0]; }

# made
my ($config, $ks) = conf($uri);
my @blue = ('blue', '--config', $config);
like_error(1, qr/^ERROR:  "127\.0\.0\.1:\d+" has no transit key "transit\/walcrypt"\nHINT:  --create-kek makes it\.$/m, 'no transit key', qw(key init), @blue, @id);
is(($dev->cli_output(qw(read transit/keys/walcrypt)))[0], 2, 'none was made behind our back');
like(ctl(qw(key init), @blue, @id, '--create-kek'), qr/^Made the key that wraps the cluster key: vault-transit/m, 'key init --create-kek makes it');
my $wrapped = slurp_from("$ks/blue/live/kek.wrapped");
like($wrapped, qr{^vault:v1:[A-Za-z0-9+/]+=*\z}, 'kek.wrapped holds what the engine wrapped');
is((stat "$ks/blue/live/kek.wrapped")[2] & 07777, 0600, '... with mode 0600');
like(ctl(qw(key show), @blue), qr{^cluster key +[0-9a-f]{16}, version 1\nprovider +vault-transit\+http://\S+/transit/walcrypt\b}m, 'key show names the version of the transit key');
like(ctl(qw(key verify), @blue), qr/opens it/, 'key verify opens it');
ctl(qw(key init green --config), $config, @id);
isnt(kek_id(@blue), kek_id('green', '--config', $config), 'a second keyset has a cluster key of its own');
ctl(qw(key verify green --config), $config);

# names: long ones whole, others escaped, which the engine takes or not; never another key's
for my $name ('x' x 250, 'y' x 256) {
	my ($c) = conf($dev->uri('vault-transit', "transit/$name"));
	ctl(qw(key init blue --create-kek --config), $c, @id);
	like(ctl(qw(key verify blue --config), $c), qr/opens it/, 'a name of ' . length($name) . ' bytes');
	is(($dev->cli_output('read', "transit/keys/$name"))[0], 0, '... whole at the server');
}
like_error(2, qr/has a part that is empty, "\." or "\.\."/, 'a name with ..', qw(key init blue --config), (conf($dev->uri('vault-transit', 'transit/../sys/x')))[0], @id);
my $there = join(' ', sort map { /^(\S+)$/mg } ($dev->cli_output(qw(list transit/keys)))[1]);
for my $name ('per%25cent', 'q%3Fuery', 'a%2Fb', 'walcrypt%00') {
	my ($rc, undef, $err) = ctl_output(qw(key init blue --create-kek --config), (conf($dev->uri('vault-transit', "transit/$name")))[0], @id);
	cmp_ok($rc, '>', 0, "a name that the engine does not take, $name: refused") or next;
	like($err, qr/^ERROR:  \S/, '... with a message: ' . ($err =~ /^(.*)$/m)[0]);
}
is(join(' ', sort map { /^(\S+)$/mg } ($dev->cli_output(qw(list transit/keys)))[1]), $there, '... and no key was made under another name');

# rotation of the transit key: move wraps the same cluster key anew, alter a fresh one; what lies about under version 1 still opens
my $first = kek_id(@blue);
$dev->cli(qw(write -f transit/keys/walcrypt/rotate));
like(ctl(qw(key verify), @blue), qr/opens it/, 'after a rotation the old wrapping still opens');
like(ctl(qw(key move), @blue, '--new-kek', $uri), qr/cluster key moved/, 'key move to the same provider');
like(slurp_from("$ks/blue/live/kek.wrapped"), qr/^vault:v2:/, '... wraps it under the newest version');
is(kek_id(@blue), $first, '... and it is the same cluster key');
like(ctl(qw(key show), @blue), qr/^cluster key .*, version 2$/m, '... as key show says');
ctl(qw(key verify), @blue);
like(ctl(qw(key alter), @blue, '--new-kek', $uri, '--dry-run'), qr/would be changed.*Nothing was changed/s, 'key alter --dry-run');
is(kek_id(@blue), $first, '... changes nothing');
ctl(qw(key alter), @blue, '--new-kek', $uri);
isnt(kek_id(@blue), $first, 'key alter makes a new cluster key');
ctl(qw(key verify), @blue);
$dev->cli(qw(write -f transit/keys/walcrypt/rotate));
my $out = ctl(qw(key move --all --config), $config, '--new-kek', $uri);
is(() = $out =~ /cluster key moved/g, 2, 'key move --all does both');
like(slurp_from("$ks/$_/live/kek.wrapped"), qr/^vault:v3:/, "... $_") for qw(blue green);
ctl(qw(key verify), $_, '--config', $config) for qw(blue green);
ctl(qw(key move), @blue, '--new-kek', "$uri&version=2");
like(slurp_from("$ks/blue/live/kek.wrapped"), qr/^vault:v2:/, 'a pinned version of the transit key');

# a set that is written anew under the same cluster key keeps its wrapped form
my $before = slurp_from("$ks/green/live/kek.wrapped");
ctl(qw(key new-epoch blue green --timeline 1 --config), $config);
is(slurp_from("$ks/green/live/kek.wrapped"), $before, 'key new-epoch keeps kek.wrapped');
like(ctl(qw(key show green --config), $config), qr/^WAL key epoch 2 /m, '... and writes the set');
ctl(qw(key verify), $_, '--config', $config) for qw(blue green);

# what the server no longer opens
$dev->cli(qw(write transit/keys/walcrypt/config min_decryption_version=3));
like_error(1, qr/no longer opens what this version of the transit key wrapped.*\nHINT:  Lower its min_decryption_version/s, 'a version that is retired', qw(key verify), @blue);
ctl(qw(key verify green --config), $config);
$dev->cli(qw(write transit/keys/walcrypt/config min_decryption_version=1));
ctl(qw(key verify), @blue);

# damage, a mix-up, another transit key, a server without it
copy("$ks/blue/live/kek.wrapped", "$tmp/saved") or die;
for my $t ([ 'cut short', substr($wrapped, 0, 30) ], [ 'one bit changed', $wrapped =~ s/(.)$/$1 eq 'A' ? 'B' : 'A'/er ], [ 'something else', "-----BEGIN-----\n" ],
	[ 'empty', '' ], [ 'with a zero byte', "vault:v1:\0AAA" ], [ 'too long', 'vault:v1:' . 'A' x 5000 ], [ 'not UTF-8', "vault:v1:\xff\xfe" ],
	[ 'of a version to come', $wrapped =~ s/v1/v99/r ]) {
	put("$ks/blue/live/kek.wrapped", $t->[1]);
	like_error(3, qr/wrapped cluster key/, "kek.wrapped $t->[0]", qw(key verify), @blue);
}
copy("$ks/green/live/kek.wrapped", "$ks/blue/live/kek.wrapped") or die;
like_error(5, qr/wrong cluster key for key directory.*DETAIL:  The keys are wrapped under cluster key [0-9a-f]{16}; vault-transit\S+ gave [0-9a-f]{16}/s, "another keyset's kek.wrapped", qw(key verify), @blue);
unlink "$ks/blue/live/kek.wrapped";
like_error(1, qr/holds no cluster key wrapped by "vault-transit:"/, 'no kek.wrapped', qw(key verify), @blue);
copy("$tmp/saved", "$ks/blue/live/kek.wrapped") or die;
$dev->cli(qw(write -f transit/keys/other));
like_error(3, qr/did not open the wrapped cluster key: "transit\/other"\nDETAIL:  It said: .*\nHINT:  It was wrapped by another transit key/s, 'another transit key', qw(key verify --kek), $dev->uri('vault-transit', 'transit/other'), @blue);
like_error(1, qr/has no transit key "transit\/gone"\nHINT:  What is encrypted needs this very key/, 'a server without the key', qw(key verify --kek), $dev->uri('vault-transit', 'transit/gone'), @blue);
like_error(1, qr/has no transit engine there: "nowhere\/x"/, 'no engine', qw(key verify --kek), $dev->uri('vault-transit', 'nowhere/x'), @blue);
like_error(1, qr/has no transit engine there: "nowhere\/x"/, 'no engine to wrap with', qw(key alter), @blue, '--new-kek', $dev->uri('vault-transit', 'nowhere/x'));
like_error(2, qr/names no key of a transit engine/, 'an engine alone', qw(key alter), @blue, '--new-kek', $dev->uri('vault-transit', 'transit'));
$dev->cli(qw(write transit/keys/sign type=ed25519));
like_error(2, qr/is of a type that cannot encrypt/, 'a key to sign with', qw(key alter), @blue, '--new-kek', $dev->uri('vault-transit', 'transit/sign'));
$dev->cli(qw(write transit/keys/derived derived=true));
like_error(2, qr/is derived from contexts/, 'a derived key', qw(key alter), @blue, '--new-kek', $dev->uri('vault-transit', 'transit/derived'));
like_error(1, qr/does not wrap|did not wrap|has no/, 'a version that is not there', qw(key alter), @blue, '--new-kek', "$uri&version=77");
ctl(qw(key verify), @blue);

# what a token needs: to open, the right to decrypt and no more; to wrap, to look at the key, too
my $token = $dev->put_token($dev->token_for('opener', qq(path "transit/decrypt/walcrypt" { capabilities = ["update"] }\n)), "$tmp/opener");
my $opener = $dev->uri('vault-transit', 'transit/walcrypt', token_file => $token);
like(ctl(qw(key verify --kek), $opener, @blue), qr/opens it/, 'a token that may only decrypt opens');
like_error(4, qr/denies the token access to "transit\/walcrypt"/, 'it cannot wrap', qw(key alter), @blue, '--new-kek', $opener);
$token = $dev->put_token($dev->token_for('writer', qq(path "transit/encrypt/walcrypt" { capabilities = ["update"] }\npath "transit/keys/walcrypt" { capabilities = ["read"] }\n)), "$tmp/writer");
like_error(4, qr/denies the token access/, 'what cannot be opened again is not used', qw(key alter), @blue, '--new-kek', $dev->uri('vault-transit', 'transit/walcrypt', token_file => $token));
$token = $dev->put_token($dev->token_for('both', join('', map { qq(path "transit/$_->[0]/walcrypt" { capabilities = ["$_->[1]"] }\n) } [ encrypt => 'update' ], [ decrypt => 'update' ], [ keys => 'read' ])), "$tmp/both");
ctl(qw(key alter), @blue, '--new-kek', $dev->uri('vault-transit', 'transit/walcrypt', token_file => $token));
ctl(qw(key verify), @blue);

# to other providers and back
my $file = "file:$tmp/kek";
my $id = kek_id(@blue);
like(ctl(qw(key move), @blue, '--new-kek', $file, '--create-kek'), qr/^Stored the cluster key: file:/m, 'key move to a file stores the same cluster key');
ok(!-e "$ks/blue/live/kek.wrapped", 'kek.wrapped is gone');
is(kek_id(@blue), $id, 'the cluster key is the same');
ctl(qw(key verify --kek), $file, @blue);
like_error(1, qr/holds no cluster key wrapped by "vault-transit:"\nHINT:  Its cluster key comes from another provider: walcrypt-ctl key show names it/, 'the old provider', qw(key verify), @blue);
ctl(qw(key move --kek), $file, @blue, '--new-kek', $uri);
is(kek_id(@blue), $id, 'and back');
ctl(qw(key alter), @blue, '--new-kek', 'file:' . kek_file("$tmp/kek2"));
ok(!-e "$ks/blue/live/kek.wrapped", 'key alter to a file');
ctl(qw(key alter --kek), "file:$tmp/kek2", @blue, '--new-kek', $uri);
ctl(qw(key verify), @blue);
like_error(6, qr/could not be opened: their cluster key is only known to vault-transit/, 'an export', qw(key export), @blue, '--to', "$tmp/cfe");

# where a change was cut off, the keys in force are opened with the kek.wrapped that belongs to them
copy_tree("$ks/blue", "$tmp/cut");
rename("$tmp/cut/live", "$tmp/cut/old") or die;
copy_tree("$ks/green/live", "$tmp/cut/new");
unlink "$tmp/cut/new/keyset.json";
like(ctl(qw(key verify --config), $config, '--key-dir', "$tmp/cut"), qr/opens it.*A change of these keys was cut off/s, 'a change that was cut off does not hinder');
ctl(qw(key repair --key-dir), "$tmp/cut");
like(ctl(qw(key verify --config), $config, '--key-dir', "$tmp/cut"), qr/opens it/, 'nor after the repair');

# the reference in a key directory is shown and never used
my $trap = "command:touch $tmp/sprung; cat $tmp/kek2";
ctl(qw(key alter), @blue, '--new-kek', $trap);
ok(unlink("$tmp/sprung"), 'a key command ran because the command line named it');
like(ctl(qw(key show), @blue), qr/^provider +command:touch/m, 'key show shows where the key came from');
ctl(qw(key list --config), $config);
like_error(1, qr/holds no cluster key wrapped/, 'another provider does not open it', qw(key verify), @blue);
ctl(qw(key verify --kek), "file:$tmp/kek2", @blue);
ok(!-e "$tmp/sprung", 'the command in the key directory was not run');

sub copy_tree { my ($from, $to) = @_; system_or_bail('cp', '-a', $from, $to); return; }

done_testing();
