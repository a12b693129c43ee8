#!/bin/sh
# Chains and revocation by OpenSSL, over the directory that `make demo` leaves. openssl.sh DIR
set -eu

dir=${1:?usage: openssl.sh DIR}
trust=$dir/trust
failed=0

verify() {
	name=$1
	shift
	if out=$(openssl verify -x509_strict -CAfile "$trust/iaca.pem" "$@" "$trust/$name.pem" 2>&1); then
		echo "ok - $name: openssl verify${*:+ -crl_check}"
	else
		echo "not ok - $name: openssl verify${*:+ -crl_check}"
		echo "$out" | sed 's/^/  # /'
		failed=1
	fi
}

crl=
for f in "$trust/iaca.crl" "$dir/iaca.crl"; do
	[ -f "$f" ] && crl=$f && break
done
if [ -n "$crl" ]; then
	if ! grep -q 'BEGIN X509 CRL' "$crl"; then # DER
		pem=$(mktemp)
		trap 'rm -f "$pem"' EXIT
		openssl crl -inform DER -in "$crl" -out "$pem"
		crl=$pem
	fi
	if out=$(openssl crl -in "$crl" -CAfile "$trust/iaca.pem" -noout 2>&1); then
		echo "ok - iaca.crl: signature of the IACA"
	else
		echo "not ok - iaca.crl: signature of the IACA"
		echo "$out" | sed 's/^/  # /'
		failed=1
	fi
else
	echo "# no iaca.crl: revocation is not checked"
fi

for name in ds sdjwt-issuer status-signer; do
	if [ -n "$crl" ]; then
		verify "$name" -crl_check -CRLfile "$crl"
	else
		verify "$name"
	fi
done
exit $failed
