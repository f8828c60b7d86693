# Faults between walcrypt and a transit engine, at each request that it makes: login, look at the key, wrap, unwrap. A proxy that the test owns
# passes everything on to the real OpenBao server but for the one request that goes wrong: what no real server can be made to say.
use strict;
use warnings;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use POSIX ();
use PostgreSQL::Test::Utils;
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;
use Time::HiRes qw(time);
use Walcrypt;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/faults';
mkdir $tmp, 0700;
my $dev = Walcrypt::Vault->new(name => 'faults');
$dev->enable('transit', 'secrets', 'transit');
$dev->cli(qw(write -f transit/keys/faults));
$dev->enable('approle', 'auth', 'approle');
$dev->policy('walcrypt', qq(path "transit/*" { capabilities = ["read", "update"] }\n));
$dev->cli(qw(write auth/approle/role/proxy token_policies=walcrypt token_ttl=1h));
my $role = $dev->role_id;
$dev->put_token($dev->secret_id, "$tmp/secret_id");

my ($pid, $n) = (undef, 0);
END { kill('KILL', $pid) if $pid; }

# Requests whose path matches get the fault (a text, or code with the connection), the first $times of them.
sub between
{
	my ($path, $fault, $times) = @_;
	my $listen = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die;
	my $count = "$tmp/count" . ++$n;
	$pid = fork() // die;
	if ($pid == 0) {
		open(STDOUT, '>', '/dev/null');
		open(STDERR, '>&', \*STDOUT);
		my $hits = 0;
		while (my $c = $listen->accept) {
			my ($head, $length, $body) = ('', 0, '');
			while (defined(my $l = <$c>)) { last if $l =~ /^\r?\n$/; $length = $1 if $l =~ /^content-length: (\d+)/i; $head .= $l unless $l =~ /^(host|connection):/i; }
			read($c, $body, $length);
			if ($head =~ m{^\w+ /v1/$path } && ++$hits <= ($times // 1000)) {
				open(my $f, '>>', $count); print $f 'x'; close $f;
				if (ref $fault) { $fault->($c, $head, $body); } else { print $c $fault; }
			} else {
				pass_on($c, $head, $body);
			}
			close $c;
		}
		POSIX::_exit(0);
	}
	return $listen->sockport;
}

sub pass_on
{
	my ($c, $head, $body, $change) = @_;
	my $s = IO::Socket::INET->new(PeerAddr => $dev->host_port) or return;
	print $s $head, "Host: x\r\nConnection: close\r\n\r\n", $body;
	local $/;
	my $reply = <$s>;
	$reply = $change->($reply) if $change;
	print $c $reply;
	return;
}

sub stop { kill('KILL', $pid); waitpid($pid, 0); undef $pid; return -s "$tmp/count$n" // 0; }

sub answer { my ($status, $body, @headers) = @_; return "HTTP/1.1 $status\r\nContent-Length: " . length($body) . "\r\n" . join('', map { "$_\r\n" } @headers) . "Connection: close\r\n\r\n$body"; }

# key init through it: (status, stdout, stderr)
sub init
{
	my ($port, $timeout, $verify) = @_;
	my $file = "$tmp/c$n.ini";
	open(my $f, '>', $file) or die;
	print $f "[walcrypt]\nauth_type = trust\nkeystore = $tmp/" . ($verify ? 'good' : "ks$n") . "\n[kek site]\nuri = vault-transit+http://127.0.0.1:$port/transit/faults\ntimeout = $timeout\n"
	  . "login = approle\nlogin_role = $role\nlogin_file = $tmp/secret_id\n[node red]\nconninfo = host=$tmp port=1\nkeyset = none\n[node blue]\nkeyset = blue\nkek = site\n";
	close $f;
	chmod 0600, $file;
	return $verify ? ctl_output(qw(key verify blue --config), $file) : ctl_output(qw(key init blue --system-identifier 7000000000000000001 --config), $file);
}

sub fails
{
	my ($what, $path, $fault, $status, $words, $tries, $verify) = @_;
	my $port = between($path, $fault);
	my $start = time();
	my ($rc, $out, $err) = init($port, ref $fault eq 'CODE' && $what =~ /^hangs/ ? '1500ms' : $what =~ /hangs/ ? '6s' : '30s', $verify);
	my $took = time() - $start;
	is($rc, $status, "$path, $what: exit status");
	like($err, $words, "$path, $what: message");
	unlike($err, qr/\b[0-9a-f]{64}\b|root-of-/, "$path, $what: neither key nor token in it");
	ok(!-e "$tmp/ks$n/blue/live", "$path, $what: no keyset is left") unless $verify;
	cmp_ok($took, '<', 20, "$path, $what: in time");
	my $tried = stop();
	is($tried, $tries, "$path, $what: tried $tries times") if defined $tries;
	return;
}

# without a fault, and with one that passes
my $port = between('nothing', '');
is((init($port, '30s'))[0], 0, 'without a fault') or BAIL_OUT('the proxy between does not work');
rename("$tmp/ks$n", "$tmp/good") or die;
stop();
for my $t ([ 'auth/approle/login', '429 Too Many Requests', 2 ], [ 'transit/encrypt/faults', '503 Sealed', 2 ], [ 'transit/decrypt/faults', '500 Oops', 1 ], [ 'transit/keys/faults', '502 Bad Gateway', 1 ]) {
	is((init(between($t->[0], answer($t->[1], '{"errors":["later"]}'), $t->[2]), '30s'))[0], 0, "$t->[0]: $t->[1] that passes is waited for");
	is(stop(), $t->[2], '... it was met');
}

# what does not pass, at each request
my $reset = sub { my ($c) = @_; setsockopt($c, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)); };
my $hang = sub { sleep 30 };
for my $path ('auth/approle/login', 'transit/keys/faults', 'transit/encrypt/faults', 'transit/decrypt/faults') {
	fails('an answer that is no JSON', $path, answer('200 OK', 'hello'), 1, qr/the answer of "127\.0\.0\.1:\d+" is not JSON/, 1);
	fails('a redirect', $path, answer('307 There', '', "Location: http://192.0.2.1:1/v1/$path"), 4, qr/sends the request elsewhere, which is not followed\nHINT:  Name the active server/, 1);
	fails('a megabyte', $path, answer('200 OK', 'x' x (1 << 20)), 1, qr/is longer than 65535 bytes/, 1);
	fails('hangs', $path, $hang, 4, qr/did not answer in time/);
}
fails('too many requests', 'auth/approle/login', answer('429 Too Many', '{"errors":["slow down"]}'), 4, qr/has too many requests\nDETAIL:  It said: slow down/, 5);
fails('sealed', 'transit/decrypt/faults', answer('503 No', '{"errors":["Vault is sealed"]}'), 4, qr/is sealed or in maintenance\nDETAIL:  It said: Vault is sealed\nHINT:  Unseal it/, 5, 1);
{
	my $asked = 0;
	fails('sealed, then it hangs', 'transit/decrypt/faults', sub { my ($c) = @_; $asked++ ? sleep 30 : print $c answer('503 No', '{}'); }, 4, qr/is sealed or in maintenance/, 2, 1);
}
fails('a reset', 'transit/decrypt/faults', $reset, 4, qr/could not reach "127\.0\.0\.1:\d+"\nDETAIL:  /, 5, 1);
fails('cut off', 'transit/encrypt/faults', substr(answer('200 OK', '{"data":{"ciphertext":"vault:v1:abc"}}'), 0, -5), 4, qr/could not reach|did not answer/, 5);
fails('no token', 'auth/approle/login', answer('200 OK', '{"auth":{"client_token":""}}'), 1, qr/gave no token for the login/, 1);
fails('a token of 10 kB', 'auth/approle/login', answer('200 OK', '{"auth":{"client_token":"' . 'x' x 10000 . '"}}'), 1, qr/gave no token for the login/, 1);
fails('403', 'transit/decrypt/faults', answer('403 No', '{"errors":["permission denied"]}'), 4, qr/denies the token access.*\nHINT:  The policies that the login gives lack the path/s, 1, 1);

# wrapped keys and cluster keys of the wrong kind
fails("wrapped: $_->[0]", 'transit/encrypt/faults', answer('200 OK', encode_json({ data => { ciphertext => $_->[1] } })), 1, qr/gave no wrapped key/, 1)
  for [ 'too long', 'vault:v1:' . 'A' x 5000 ], [ 'no version', 'vault:AAAA' ], [ 'empty', '' ], [ 'no text', 7 ];
fails("unwrapped: $_->[0]", 'transit/decrypt/faults', answer('200 OK', encode_json({ data => { plaintext => $_->[1] } })), 1, qr/what "127\.0\.0\.1:\d+" unwrapped is no cluster key of 32 bytes/, 1, 1)
  for [ 'too short', encode_base64('x' x 31, '') ], [ 'too long', encode_base64('x' x 33, '') ], [ 'empty', '' ], [ 'not base64', '*' x 44 ], [ 'no text', 7 ], [ 'base64 with a newline', encode_base64('x' x 32) ];
fails('unwrapped: another key while wrapping', 'transit/decrypt/faults', answer('200 OK', encode_json({ data => { plaintext => encode_base64('y' x 32, '') } })), 1,
	qr/gave back another key than it was to wrap/, 1);
fails('unwrapped: another key', 'transit/decrypt/faults', answer('200 OK', encode_json({ data => { plaintext => encode_base64('y' x 32, '') } })), 5,
	qr/wrong cluster key for key directory/, undef, 1);

# the login's token is given back; a server that does not take it back, or falls silent then, does not make the command fail
for my $t ([ 'is refused', answer('400 No', '{"errors":["no"]}') ], [ 'hangs', $hang ]) {
	my $start = time();
	is((init(between('auth/token/revoke-self', $t->[1]), '30s', 1))[0], 0, "the giving back of a token $t->[0]");
	cmp_ok(time() - $start, '<', 15, '... which is not waited for long');
	is(stop(), 1, '... it was tried');
}

done_testing();
