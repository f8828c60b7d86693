# SCRAM-SHA-256 by hand, over Walcrypt::Wire: a client that can do everything wrong.
#
#   my ($seen, $body) = Walcrypt::Scram::login($wire, password => 'x', gs2 => 'n,,', final => sub { my ($without, $proof) = @_; ... });
use strict;
use warnings;

package Walcrypt::Scram;

use Digest::SHA qw(hmac_sha256 sha256);
use MIME::Base64 qw(encode_base64 decode_base64);

sub b64 { return encode_base64($_[0], ''); }

sub salted
{
	my ($password, $salt, $iterations) = @_;
	my $u = hmac_sha256($salt . pack('N', 1), $password);
	my $sum = $u;
	for (2 .. $iterations) { $u = hmac_sha256($u, $password); $sum ^= $u; }
	return $sum;
}

# A verifier in PostgreSQL's form.
sub verifier
{
	my ($password, $salt, $iterations) = @_;
	my $salted = salted($password, $salt, $iterations);
	return "SCRAM-SHA-256\$$iterations:" . b64($salt) . '$' . b64(sha256(hmac_sha256('Client Key', $salted))) . ':' . b64(hmac_sha256('Server Key', $salted));
}

# What the server asks for first: the mechanisms it offers; nothing when it asks for no SASL.
sub offered
{
	my ($wire) = @_;
	while (my ($type, $body) = $wire->message) {
		return split(/\0/, substr($body, 4)) if $type eq 'R' && unpack('N', $body) == 10;
		return if $type ne 'v';
	}
	return;
}

sub initial
{
	my ($wire, $mechanism, $text) = @_;
	return $wire->send('p', "$mechanism\0" . pack('N', length $text) . $text);
}

# The server's message of a SASL step; nothing but the ErrorResponse's fields when it refuses.
sub step
{
	my ($wire) = @_;
	my ($type, $body) = $wire->message;
	return (undef, {}) if !defined $type;
	return (substr($body, 4), {}) if $type eq 'R';
	return (undef, { Walcrypt::Wire::fields($body) });
}

# Send a first message; the server's answer as { r, s, i } or the error's fields.
sub begin
{
	my ($wire, %how) = @_;
	my $gs2 = $how{gs2} // 'n,,';
	my $bare = 'n=,r=' . ($how{nonce} // 'client');
	initial($wire, $how{mechanism} // 'SCRAM-SHA-256', $gs2 . $bare);
	my ($text, $error) = step($wire);
	return { error => $error } if !defined $text;
	my %answer = map { substr($_, 0, 1) => substr($_, 2) } split(/,/, $text);
	return { %answer, gs2 => $gs2, bare => $bare, text => $text };
}

# The last message for what begin returned: (without proof, proof).
sub answer
{
	my ($begun, $password, $binding) = @_;
	my $without = 'c=' . b64($begun->{gs2} . ($binding // '')) . ",r=$begun->{r}";
	my $salted = salted($password, decode_base64($begun->{s}), $begun->{i});
	my $key = hmac_sha256('Client Key', $salted);
	return ($without, b64($key ^ hmac_sha256("$begun->{bare},$begun->{text},$without", sha256($key))));
}

1;
