# The cluster key wrapped by a key that never leaves a token: a real SoftHSM. Made, opened, changed; wrong PINs, tokens and keys, keys
# that could be read out, a module that hangs. Each fault has its own words and its own exit status.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/pkcs11';
mkdir $_, 0700 for $tmp, "$tmp/tokens";
never_said(qr/4711/);
my ($module) = grep { -e } '/usr/lib/softhsm/libsofthsm2.so', glob('/usr/lib/*/softhsm/libsofthsm2.so');

$ENV{SOFTHSM2_CONF} = put("$tmp/softhsm2.conf", "directories.tokendir = $tmp/tokens\nobjectstore.backend = file\nlog.level = ERROR\n");
system_or_bail('softhsm2-util', '--init-token', '--free', '--label', $_, '--pin', '471111', '--so-pin', '815815') for qw(walcrypt other);
my $pin = put("$tmp/pin", "471111\n");

sub uri
{
	my ($object, %o) = @_;
	%o = (token => 'walcrypt', module => $module, pin => $pin, %o);
	return "pkcs11:token=$o{token};object=$object?module-path=$o{module}&pin-source=$o{pin}";
}

my $conf = put("$tmp/w.ini", "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek site]\nuri = " . uri('kek') . "\n"
	  . "[node red]\nconninfo = host=$tmp port=1\nkeyset = none\n[node blue]\nkeyset = blue\nkek = site\n");
my @init = (qw(key init blue --system-identifier 7000000000000000001 --config), $conf);
my @verify = (qw(key verify blue --config), $conf);

refused(1, qr/the token "walcrypt" has no key "kek"\n/, 'no key yet', @init);
like(ctl(@init, '--create-kek'), qr/Made the key that wraps the cluster key: pkcs11:token=walcrypt;object=kek/, 'made in the token');
like(ctl(@verify), qr/opens it/, 'it opens the key directory');
is(-s "$tmp/ks/blue/live/kek.wrapped", 64, 'the cluster key lies there, wrapped');
my ($out, $err) = ('', '');
ok(IPC::Run::run([ "$Walcrypt::prefix/tests/kekcall", 'create', uri('kek') ], '<', \undef, '>', \$out, '2>', \$err), 'another key under the same one');
my ($key) = $out =~ /^([0-9a-f]{64})/;
is(files_containing($key, "$tmp/ks", "$tmp/tokens") + files_containing(pack('H*', $key), "$tmp/ks", "$tmp/tokens"), 0, '... is in no file in clear');

# names
for my $name ('a%2Fb', '..%2F..%2Fx', '%2E%2E', 'per%25cent', 'semi%3Bcolon', 'x' x 250, 'y' x 256) {
	is((ctl_output(qw(key alter blue --config), $conf, '--new-kek', uri($name), '--create-kek'))[0], 0, 'name ' . substr($name, 0, 20));
	is((ctl_output(qw(key alter blue --config), $conf, '--kek', uri($name), '--new-kek', uri('kek')))[0], 0, '... and back');
}
refused(2, qr/label is longer than 256 bytes/, 'a name of 257 bytes', @verify, '--kek', uri('z' x 257));
refused(2, qr/not followed by two hexadecimal digits/, 'half an escape', @verify, '--kek', uri('%zz'));

# wrong: PIN, token, key, module, URI
refused(4, qr/the token: the login failed\nDETAIL:  It said: the PIN is wrong/, 'another PIN', @verify, '--kek', uri('kek', pin => put("$tmp/pin2", "123456\n")));
refused(4, qr/could not open PIN file "$tmp\/none"/, 'no PIN', @verify, '--kek', uri('kek', pin => "$tmp/none"));
refused(6, qr/PIN file "$tmp\/open" has mode 0644: others may read or write it/, 'a PIN for all', @verify, '--kek', uri('kek', pin => put("$tmp/open", "471111\n", 0644)));
refused(1, qr/PIN file "\S+" does not hold one line/, 'two PINs', @verify, '--kek', uri('kek', pin => put("$tmp/two", "471111\n471112\n")));
refused(4, qr/there is no token with the label "gone"/, 'no such token', @verify, '--kek', uri('kek', token => 'gone'));
refused(1, qr/the token "other" has no key "kek"/, 'another token', @verify, '--kek', uri('kek', token => 'other'));
refused(4, qr/could not load the PKCS #11 module "\/gone\.so"/, 'no module', @verify, '--kek', uri('kek', module => '/gone.so'));
refused(2, qr/lacks token, object, module-path or pin-source\nHINT:  For example/, 'half a URI', @verify, '--kek', 'pkcs11:token=walcrypt;object=kek');
refused(6, qr/a PIN does not belong into a URI/, 'a PIN in the URI', @verify, '--kek', uri('kek') . '&pin-value=0815');
refused(2, qr/unknown part "objekt"/, 'a slip', @verify, '--kek', uri('kek') =~ s/object/objekt/r);
ctl_output(qw(key alter blue --config), $conf, '--new-kek', uri('second'), '--create-kek');
refused(3, qr/the token's key "kek" does not open the wrapped cluster key\nHINT:  Another key has the label/, 'another key of the token', @verify);
ctl(qw(key alter blue --config), $conf, '--kek', uri('second'), '--new-kek', uri('kek'));

# damage
my $wrapped = slurp_file("$tmp/ks/blue/live/kek.wrapped");
for my $t ([ 'a byte changed', substr($wrapped, 0, 40) . chr(ord(substr($wrapped, 40, 1)) ^ 1) . substr($wrapped, 41) ], [ 'cut off', substr($wrapped, 0, 60) ], [ 'too long', $wrapped x 3 ],
	[ 'of another kind', 'vault:v1:AAAA' ]) {
	put("$tmp/ks/blue/live/kek.wrapped", $t->[1]);
	refused(3, qr/wrapped cluster key/, $t->[0], @verify);
}
put("$tmp/ks/blue/live/kek.wrapped", $wrapped);
like(ctl(@verify), qr/opens it/, 'undamaged again');

# keys that could be read out, and two of one label: as pkcs11-tool makes them
my @tool = ('pkcs11-tool', '--module', $module, '--token-label', 'walcrypt', '--login', '--pin', '471111');
system_or_bail(@tool, '--keygen', '--key-type', 'AES:32', '--label', 'loose', '--id', '01', '--extractable');
refused(6, qr/the key "loose" could be read out of the token\nHINT:  It must be sensitive and not extractable/, 'an extractable key', qw(key alter blue --config), $conf, '--new-kek', uri('loose'));
system_or_bail(@tool, '--keygen', '--key-type', 'AES:32', '--label', 'twin', '--id', $_, '--sensitive') for qw(02 03);
refused(6, qr/the token has several keys with the label "twin"/, 'two of one label', qw(key alter blue --config), $conf, '--new-kek', uri('twin'));

# a module that hangs: played, by one whose first call never comes back
put("$tmp/hang.c", "#include <unistd.h>\nunsigned long C_GetFunctionList(void **list); unsigned long C_GetFunctionList(void **list) { (void)list; for (;;) pause(); }\n");
system_or_bail('gcc', '-shared', '-fPIC', '-o', "$tmp/hang.so", "$tmp/hang.c");
my $slow = put("$tmp/slow.ini", slurp_file($conf) =~ s/^uri = .*$/"uri = " . uri('kek', module => "$tmp\/hang.so") . "\ntimeout = 700ms"/mer);
refused(4, qr/the token did not answer within 700 ms/, 'a module that hangs', qw(key verify blue --config), $slow);
done_testing();
