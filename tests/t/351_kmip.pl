# Cluster keys from a real KMIP server, PyKMIP's: made, read, listed, destroyed, several of one name; what the server refuses; and what
# only a broken server says (played, since PyKMIP is not). Each fault has its own words and its own exit status.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Walcrypt;
use Walcrypt::KeyCommands;
use IPC::Open2;
use Walcrypt::Kmip;
use Walcrypt::Relay;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/kmip351';
mkdir $tmp, 0700;
my $kmip = Walcrypt::Kmip->new(name => 'main');
sub init { return init_with($tmp, @_); }
sub denied { return init_refused($tmp, @_); }

# list, destroy, and the key itself, which no command shows
sub kek
{
	my (@args) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ "$Walcrypt::prefix/tests/kekcall", @args ], '<', \undef, '>', \$out, '2>', \$err);
	chomp $out;
	return ($? >> 8, $out, $err);
}

# made, read again, never made twice; one connection each
my $uri = $kmip->uri('walcrypt');
denied(1, qr/"localhost:\d+" has no key "walcrypt"\nHINT:  --create-kek makes it\.$/m, 'not there', $uri);
my ($rc, $out, $err) = init($uri, 1);
is($rc, 0, 'key init --create-kek makes the key') or diag $err;
my $config = last_conf();
my ($status, $line) = kek('fetch', $uri);
my ($key, $uid) = $line =~ /^([0-9a-f]{64}) (\S+)$/;
is($kmip->client('get', $uid), $key, "PyKMIP's own client gets the same");
my $from = -s $kmip->logfile;
is((init($uri, 1))[0], 0, 'the key that is there is used');
is((kek('list', $uri))[1], "walcrypt $uid", '... and no other made');
like(ctl(qw(key show blue --config), $config), qr{^cluster key .*, version \Q$uid\E\nprovider +kmip://localhost:\d+/walcrypt\?}m, 'key show names provider and object');
is(ctl(qw(key verify blue --config), $config) =~ /./, 1, 'key verify');
my $log = slurp_from($kmip->logfile, $from);
is(scalar(() = $log =~ /Starting session/g), 3, 'three calls made three connections');
is(scalar(() = $log =~ /Processing operation: (?:DiscoverVersions|Locate|GetAttributes|Get)\n/g), 11, '... on which four questions each were asked, or three');
is((kek('fetch', $kmip->uri('walcrypt', version => $uid)))[1], $line, 'a pinned object');
denied(1, qr/has no key "walcrypt" with identifier 999/, 'one that is not there', $kmip->uri('walcrypt', version => 999));

# one connection for all calls of a command; another one when it is closed, once, and where a certificate was replaced
my $sessions = sub { return scalar(() = slurp_from($kmip->logfile) =~ /Starting session/g); };
my $at = $sessions->();
is((init($kmip->uri('other'), 1))[0], 0, 'a key looked for, made and fetched');
is($sessions->() - $at, 1, '... over one connection');
is((kek('destroy', $kmip->uri('other')))[0], 0, 'and destroyed');
for my $t ([ 'closed meanwhile', sub { my ($relay) = @_; $relay->cut; $relay->start; }, 2 ], [ 'left alone', sub { }, 1 ], [ 'silent meanwhile', sub { my ($relay) = @_; $relay->hold("(?s)."); }, 2 ],
	[ 'with another certificate', sub { utime(1, 1, $kmip->file('blue.crt')) or die; }, 2 ]) {
	my ($what, $do, $connections) = @$t;
	my $relay = Walcrypt::Relay->new({ host => '127.0.0.1', port => $kmip->{port} });
	$relay->start;
	my $through = $kmip->uri('walcrypt', port => $relay->port);
	$at = $sessions->();
	# fetched, then again when a line comes
	my $pid = open2(my $from, my $to, "$Walcrypt::prefix/tests/kekcall", 'twice', $through);
	is(scalar(<$from>), "$line\n", "a process that fetches, its connection $what");
	$do->($relay);
	my $begin = time();
	print $to "again\n";
	close $to;
	is(scalar(<$from>), "$line\n", '... and again');
	waitpid($pid, 0);
	is($sessions->() - $at, $connections, "... over $connections connections");
	cmp_ok(time() - $begin, '<', 20, '... and is not held up for long');
	$relay->cut;
}

# names
# (PyKMIP takes no text beyond ASCII; what goes out then is in tests/unit/kmip_test.c)
for my $name ('a/b', 'a b', '..', '../../x', 'per%cent', 'q?uery#&=', 'x' x 250, 'y' x 256) {
	my $escaped = $name =~ s/([^A-Za-z0-9._~-])/sprintf('%%%02X', ord($1))/ger;
	is((init($kmip->uri($escaped), 1))[0], 0, 'name ' . substr($name, 0, 20));
}
is(scalar(split(/\n/, (kek('list', $uri))[1])), 9, 'nine keys');
like((kek('list', $uri))[1], qr/^\Q..\/..\/x\E \d+$/m, '... under their names');
denied(2, qr/name is longer than 256 bytes/, 'a name of 257 bytes', $kmip->uri('z' x 257));
denied(2, qr/not followed by two hexadecimal digits/, 'half an escape', $kmip->uri('%zz'));
denied(2, qr/not of the form SCHEME:\/\/HOST/, 'no name at all', $kmip->uri(''));
denied(2, qr/unknown option "tokenfile".*\nHINT:  Known are ca_file, cert_file, key_file, version and revoked/, 'an unknown option', "$uri&tokenfile=x");

# two of one name; another name of one
my $twin = $kmip->client('register', 'walcrypt', 'ab' x 32, 'active');
denied(6, qr/has 2 keys of the name "walcrypt"\nHINT:  Say which by version=IDENTIFIER/, 'two of one name', $uri);
is((kek('fetch', $kmip->uri('walcrypt', version => $uid)))[1], $line, '... but one is pinned');
($rc, $out, $err) = ctl_output(qw(key verify blue --config), $config, '--kek', $kmip->uri('walcrypt', version => $twin));
is($rc, 5, 'the other one is a wrong cluster key');
is((init($uri, 1))[0], 6, 'and none is made beside them');
is((kek('destroy', $uri, $twin))[0], 0, 'one is destroyed');
is((kek('fetch', $uri))[1], $line, '... and the other is not');
denied(1, qr/the object $uid of "\S+" has the name "walcrypt", not "third"/, 'a pinned object of another name', $kmip->uri('third', version => $uid));

# states
my $young = $kmip->client('register', 'young', 'ef' x 32);
denied(6, qr/the key "young", object $young, is not active\nHINT:  Activate it/, 'not active', $kmip->uri('young'));
my $both = $kmip->client('register', 'first', 'cd' x 32, 'active');
$kmip->client('revoke', $both);
denied(6, qr/the key "first", object $both, was revoked\nHINT:  .*revoked=use/, 'revoked', $kmip->uri('first'));
is((init($kmip->uri('first', revoked => 'use')))[0], 0, '... and used all the same');
denied(2, qr/revoked=yes is not known/, 'revoked=yes', $kmip->uri('first', revoked => 'yes'));
$kmip->client('register', 'short', 'ab' x 16, 'active');
denied(1, qr/the KMIP server's key has 16 bytes\nHINT:  A cluster key has 32/, 'a key of 128 bits', $kmip->uri('short'));
is((kek('destroy', $kmip->uri('first')))[0], 0, 'what was revoked can be destroyed');
($rc, $out, $err) = kek('destroy', $kmip->uri('first'));
like($err, qr/has no key "first"/, '... once');

# who is who
denied(1, qr/has no key "walcrypt"/, "another client's certificate sees its own keys only", $kmip->uri('walcrypt', who => 'green'));
denied(4, qr/the KMIP server denies it\n|has no key/, '... by their identifiers, too', $kmip->uri('walcrypt', who => 'green', version => $uid));
denied(4, qr/could not reach "localhost:\d+"\nDETAIL:  .*alert/, 'a client that the authority does not know', $kmip->uri('walcrypt', who => 'stranger'));
denied(2, qr/wants to see a client certificate\nHINT:  cert_file and key_file/, 'no client certificate', $kmip->uri('walcrypt', cert_file => undef, key_file => undef));
denied(2, qr/could not use the client certificate "$tmp\/none"/, 'one that is not there', $kmip->uri('walcrypt', cert_file => "$tmp/none"));
denied(4, qr/the certificate of "localhost:\d+" is not trusted/, "a server of an authority that we don't know", $kmip->uri('walcrypt', ca_file => $kmip->file('other.crt')));
denied(2, qr/could not read the certificate authority's file/, 'no authority', $kmip->uri('walcrypt', ca_file => "$tmp/none"));
denied(4, qr/the certificate of "127\.0\.0\.1:\d+" is not trusted/, "another host's certificate", $kmip->uri('walcrypt', host => '127.0.0.1'));
is((init($kmip->uri('walcrypt', map { $_ => undef } qw(ca_file cert_file key_file)), 0, 'ca_file = ' . $kmip->file('ca.crt'), 'cert_file = ' . $kmip->file('blue.crt'),
			'key_file = ' . $kmip->file('blue.key')))[0], 0, 'files named in the configuration instead') or diag $err;

# a server that says what a real one does not
sub broken
{
	my ($after, $code) = @_;
	return $kmip->uri('walcrypt', port => $kmip->broken(sub {
		my ($c) = @_;
		while (defined(my $operation = Walcrypt::Kmip::question($c))) {
			if ($operation == $after) { $code->($c); return; }
			print $c $operation == 0x1E ? Walcrypt::Kmip::answer(0x1E, Walcrypt::Kmip::version(1, 3))
			  : $operation == 0x08 ? Walcrypt::Kmip::answer(0x08, Walcrypt::Kmip::text(0x420094, 'u1'))
			  : Walcrypt::Kmip::answer(0x0B, Walcrypt::Kmip::text(0x420094, 'u1'), map { Walcrypt::Kmip::structure(0x420008, Walcrypt::Kmip::text(0x42000A, $_->[0]), $_->[1]) }
				  [ Name => Walcrypt::Kmip::structure(0x42000B, Walcrypt::Kmip::text(0x420055, 'walcrypt'), Walcrypt::Kmip::enum(0x420054, 1)) ],
				  [ State => Walcrypt::Kmip::enum(0x42000B, 2) ]);
		}
	}));
}
sub key_answer
{
	my ($uid, $format, $material, @more) = @_;
	return Walcrypt::Kmip::answer(0x0A, Walcrypt::Kmip::enum(0x420057, 2), Walcrypt::Kmip::text(0x420094, $uid), Walcrypt::Kmip::structure(0x42008F, Walcrypt::Kmip::structure(0x420040,
		Walcrypt::Kmip::enum(0x420042, $format), Walcrypt::Kmip::structure(0x420045, Walcrypt::Kmip::bytes(0x420043, $material)), @more)));
}
my $good = key_answer('u1', 1, 'k' x 32);
is((init(broken(0x0A, sub { print { $_[0] } $good })))[0], 0, 'the played server is understood when it does right');
for my $t (
	[ 'hangs up at once',      0x1E, sub { },                                          4, qr/closed the connection|could not reach/ ],
	[ 'hangs up at the key',   0x0A, sub { },                                          4, qr/closed the connection|could not reach/ ],
	[ 'half an answer',        0x0A, sub { print { $_[0] } substr($good, 0, -20) },    4, qr/closed the connection|could not reach/ ],
	[ 'half a header',         0x0A, sub { print { $_[0] } substr($good, 0, 5) },      4, qr/closed the connection|could not reach/ ],
	[ 'an answer of 2 GB',     0x0A, sub { print { $_[0] } pack('NN', 0x42007B01, 0x7ffffff8) }, 1, qr/is longer than 65536 bytes/ ],
	[ 'HTTP',                  0x1E, sub { print { $_[0] } "HTTP/1.1 400 Bad Request\r\n\r\n" }, 1, qr/longer than 65536 bytes, or not KMIP/ ],
	[ 'lengths that lie',      0x0A, sub { print { $_[0] } $good =~ s/\x42\x00\x43\x08\x00\x00\x00\x20/\x42\x00\x43\x08\x00\x00\x00\x60/r }, 1, qr/answer is malformed/ ],
	[ 'padding that is none',  0x08, sub { print { $_[0] } Walcrypt::Kmip::answer(0x08, Walcrypt::Kmip::text(0x420094, 'u1')) =~ s/u1\x00/u1x/r }, 1, qr/answer is malformed/ ],
	[ 'version 2.0 only',      0x1E, sub { print { $_[0] } Walcrypt::Kmip::answer(0x1E, Walcrypt::Kmip::version(2, 0)) }, 1, qr/speaks none of the versions 1\.2 to 1\.4/ ],
	[ 'another answer',        0x0A, sub { print { $_[0] } Walcrypt::Kmip::answer(0x08, Walcrypt::Kmip::text(0x420094, 'u1')) }, 1, qr/answered another question/ ],
	[ 'another object',        0x0A, sub { print { $_[0] } key_answer('u2', 1, 'k' x 32) }, 1, qr/answered with another object/ ],
	[ 'another format',        0x0A, sub { print { $_[0] } key_answer('u1', 2, 'k' x 32) }, 1, qr/key is not in raw format/ ],
	[ 'a wrapped key',         0x0A, sub { print { $_[0] } key_answer('u1', 1, 'k' x 32, Walcrypt::Kmip::structure(0x420046)) }, 1, qr/key is wrapped by another one/ ],
	[ 'a key of 33 bytes',     0x0A, sub { print { $_[0] } key_answer('u1', 1, 'k' x 33) }, 1, qr/key has 33 bytes/ ],
	[ 'a long identifier',     0x08, sub { print { $_[0] } Walcrypt::Kmip::answer(0x08, Walcrypt::Kmip::text(0x420094, 'u' x 64)) }, 1, qr/longer than 63 bytes/ ],
	[ 'twenty of one name',    0x08, sub { print { $_[0] } Walcrypt::Kmip::answer(0x08, map { Walcrypt::Kmip::text(0x420094, "u$_") } 1 .. 20) }, 1, qr/has more than 16 symmetric keys/ ],
	) {
	my ($name, $after, $code, $status, $words) = @$t;
	denied($status, $words, "broken: $name", broken($after, $code));
}
my $start = time();
denied(4, qr/did not answer in time/, 'broken: hangs', broken(0x0A, sub { sleep 300 }), 'timeout = 700ms');
cmp_ok(time() - $start, '<', 60, '... and is given up');

# the server stops, and is gone
kill('STOP', -$kmip->pid);
denied(4, qr/did not answer in time/, 'a server that stands still', $uri, 'timeout = 700ms');
kill('CONT', -$kmip->pid);
$kmip->stop;
denied(4, qr/could not reach "localhost:\d+"/, 'a server that is down', $uri);
$kmip->start;
is((kek('fetch', $uri))[1], $line, 'and up again');
is(files_containing($key, $tmp), 0, 'the key is in no file of ours');

done_testing();
